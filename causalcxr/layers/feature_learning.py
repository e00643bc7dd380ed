"""Attention-augmented encoder on top of a backbone."""

from typing import Any

import torch
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr.layers.acmix import ACmix

__all__ = ["FeatureLearning"]


class FeatureLearning(nn.Module):
    """Channel, position and gate attention over a backbone's feature map (arXiv 2305.12072, Fig. 3, left).

    The map F is projected to D channels and goes through two branches. Their outputs are concatenated and projected to
    D channels.

    - Attention branch: ACmix(Conv3x3(F)) [channel] + ACmix(Conv3x3(F)) [position]
    - Gate branch: Conv1x1(F) + sigmoid(Conv1x1(GAP(F))) * F

    The figure shows no normalisation. Here, batch normalisation follows the input projection, each 3x3 convolution
    (with a ReLU) and the output projection. It removes what all images have in common.
    The output is always in `channels_last` memory format.

    Args:
        in_chs: Channels C of the backbone's feature map.
        dim: Width D.
        num_heads: Number of heads of both `ACmix` layers.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - Input: (B, C, H, W)
        - Output: (B, D, H, W)

    Raises:
        ValueError: If the input has the wrong shape or `dim` is not a multiple of `num_heads`.
        TypeError: If the input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> FeatureLearning(512, 64)(torch.randn(2, 512, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    def __init__(
        self,
        in_chs: int,
        dim: int = 256,
        *,
        num_heads: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chs = in_chs

        def conv_norm(chs: int, kernel_size: int) -> nn.Sequential:
            conv = nn.Conv2d(chs, dim, kernel_size, padding=kernel_size // 2, bias=False, **dd)
            return nn.Sequential(conv, nn.BatchNorm2d(dim, **dd))

        self.input_proj = conv_norm(in_chs, 1)
        self.channel_attn = nn.Sequential(conv_norm(dim, 3), nn.ReLU(), ACmix(dim, dim, num_heads=num_heads, **dd))
        self.position_attn = nn.Sequential(conv_norm(dim, 3), nn.ReLU(), ACmix(dim, dim, num_heads=num_heads, **dd))
        self.gate_conv = nn.Conv2d(dim, dim, 1, **dd)
        self.gate_fc = nn.Conv2d(dim, dim, 1, **dd)
        self.output_proj = conv_norm(2 * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the augmented feature map."""
        check_tensor("x", x, "B C H W", C=self.in_chs)
        # Window attention and the decoder read rows of tokens. Convolutions are faster in this format, too.
        x = self.input_proj(x).contiguous(memory_format=torch.channels_last)
        attended = self.channel_attn(x) + self.position_attn(x)
        gate = self.gate_fc(x.mean(dim=(-2, -1), keepdim=True)).sigmoid()
        gated = self.gate_conv(x) + gate * x
        return self.output_proj(torch.cat([attended, gated], dim=1))
