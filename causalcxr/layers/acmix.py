"""ACmix: windowed self-attention and convolution on shared projections."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from causalcxr._checks import check_heads, check_tensor
from causalcxr.layers._window_attention import window_attention

__all__ = ["ACmix"]


class ACmix(nn.Module):
    r"""Mix of windowed self-attention and convolution.

    Pan et al., *On the Integration of Self-Attention and Convolution*, CVPR 2022.

    Both paths share q, k and v, three 1x1 convolutions of the input. In the attention path, each pixel i attends to its
    neighbourhood (reflected at the border) with relative positions from p = conv_p(grid in [-1, 1]^2):

    .. math:: \mathrm{logit}_{ij} = q_i \cdot (k_j + p_i - p_j) / \sqrt d.

    The term :math:`q_i \cdot p_i` is the same for every j and cancels in the softmax, so p is subtracted from k once.

    In the convolution path, `fc` combines the 3 * heads maps of q, k and v into `kernel_size ** 2` maps for each
    channel of a head. The grouped convolution `dep_conv`, initialised to shifts, sums them. The output is
    rate1 * attention + rate2 * convolution, in the memory format of the input.

    Parameters have the names and shapes of the official implementation. Unlike the published layer, this one has no
    stride or dilation, supports half precision and maps smaller than the window, and does not unfold the windows.

    Args:
        in_chs: Input channels.
        out_chs: Output channels, a multiple of `num_heads`.
        num_heads: Number of heads.
        attn_kernel_size: Side of the attention window, odd.
        kernel_size: Side of the convolution kernel, odd.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - Input: (B, C_in, H, W), any H and W
        - Output: (B, C_out, H, W)

    Raises:
        ValueError: If a kernel size is not odd and positive, `out_chs` is not a multiple of `num_heads`, or the input
            has the wrong shape.
        TypeError: If the input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> ACmix(64, 128, num_heads=4)(torch.randn(2, 64, 14, 10)).shape
        torch.Size([2, 128, 14, 10])
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        num_heads: int = 4,
        attn_kernel_size: int = 7,
        kernel_size: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_heads(out_chs, num_heads)
        if min(attn_kernel_size, kernel_size) < 1 or attn_kernel_size % 2 == 0 or kernel_size % 2 == 0:
            raise ValueError(
                "attn_kernel_size and kernel_size must be odd and positive, "
                f"but got {attn_kernel_size} and {kernel_size}"
            )
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chs, self.num_heads, self.head_dim = in_chs, num_heads, out_chs // num_heads
        self.attn_kernel_size, self.kernel_size = attn_kernel_size, kernel_size
        self.conv1 = nn.Conv2d(in_chs, out_chs, 1, **dd)
        self.conv2 = nn.Conv2d(in_chs, out_chs, 1, **dd)
        self.conv3 = nn.Conv2d(in_chs, out_chs, 1, **dd)
        self.conv_p = nn.Conv2d(2, self.head_dim, 1, **dd)
        self.fc = nn.Conv2d(3 * num_heads, kernel_size**2, 1, bias=False, **dd)
        self.dep_conv = nn.Conv2d(
            kernel_size**2 * self.head_dim, out_chs, kernel_size, padding=kernel_size // 2, groups=self.head_dim, **dd
        )
        self.rate1 = nn.Parameter(torch.empty(1, **dd))
        self.rate2 = nn.Parameter(torch.empty(1, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset to equal rates and a convolution that sums the shifted maps."""
        for module in (self.conv1, self.conv2, self.conv3, self.conv_p, self.fc):
            module.reset_parameters()
        size = self.kernel_size
        with torch.no_grad():
            self.rate1.fill_(0.5)
            self.rate2.fill_(0.5)
            self.dep_conv.weight.copy_(torch.eye(size**2).view(1, size**2, size, size).expand_as(self.dep_conv.weight))
            self.dep_conv.get_parameter("bias").zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed features."""
        check_tensor("x", x, "B C H W", C=self.in_chs)
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)  # windows are gathered from contiguous tokens
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        mixed = self.rate1 * self._attention(q, k, v) + self.rate2 * self._convolution(q, k, v)
        return mixed.contiguous(memory_format=memory_format)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        position = self.conv_p(_coordinate_grid(q.shape[-2], q.shape[-1], q)).repeat(1, self.num_heads, 1, 1)
        return window_attention(q, k - position, v, num_heads=self.num_heads, window=self.attn_kernel_size)

    def _convolution(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Channels last throughout: `fc` reads adjacent values and writes taps in the layout that `dep_conv` reads.
        heads = [x.flatten(2).unflatten(1, (self.num_heads, -1)).permute(0, 3, 2, 1) for x in (q, k, v)]
        taps = self.fc(torch.cat(heads, dim=-1).permute(0, 3, 1, 2))  # (B, kernel_size ** 2, H W, d)
        return self.dep_conv(rearrange(taps, "b t (y x) d -> b (d t) y x", y=q.shape[-2]))

    def extra_repr(self) -> str:
        """Return the options to print."""
        return f"num_heads={self.num_heads}, attn_kernel_size={self.attn_kernel_size}"


def _coordinate_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the (1, 2, H, W) grid of x and y coordinates in [-1, 1]."""
    y, x = (_coordinates(length, like) for length in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).unsqueeze(0)


def _coordinates(length: int, like: Tensor) -> Tensor:
    """Return evenly spaced numbers from -1 to 1. `torch.linspace` would fix the length in an exported graph."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    steps = torch.arange(length, device=like.device, dtype=dtype)
    return (2 * steps / max(length - 1, 1) - 1).to(like.dtype)
