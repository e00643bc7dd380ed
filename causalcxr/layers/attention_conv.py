"""ACmix: self-attention in a window and convolution over shared projections."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_heads, check_tensor

__all__ = ["ACmix"]

# Up to this many tokens (a 512 px image at stride 16) fused attention over all of them beats 49 passes over the map;
# beyond, its cost grows with their square and the passes win.
DENSE_TOKENS = 1024


class ACmix(nn.Module):
    r"""Mix of windowed self-attention and convolution.

    Pan et al., *On the Integration of Self-Attention and Convolution*, CVPR 2022.

    Both paths share q, k, v, three 1x1 convolutions of the input. In the attention path each pixel i attends to its
    neighbourhood (reflected at the border) with relative positions, p = conv_p(grid in [-1, 1]^2):

    .. math:: \mathrm{logit}_{ij} = q_i \cdot (k_j + p_i - p_j) / \sqrt d.

    As :math:`q_i \cdot p_i` is the same for every j, softmax drops it: p is subtracted from k once. Small maps take
    fused attention over all pixels, large ones a sum over the shifts of the window; neither unfolds the windows, which
    would take `attn_kernel_size ** 2` times the memory of the map.
    In the convolution path `fc` maps the 3 * heads stacked q, k, v maps to `kernel_size ** 2` maps for each channel of
    a head, and a grouped convolution, initialised to shifts, sums them. The output is
    rate1 * attention + rate2 * convolution.

    Parameters keep their published names (`conv1 conv2 conv3 conv_p fc dep_conv rate1 rate2`) and shapes. Unlike the
    published layer this one has no stride or dilation, runs in half precision and on maps smaller than the window.

    Args:
        in_chs: Input channels.
        out_chs: Output channels, a multiple of `num_heads`.
        num_heads: Number of heads.
        attn_kernel_size: Side of the attention window, odd.
        kernel_size: Side of the convolution kernel, odd.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        - Input: (B, C_in, H, W), any H and W
        - Output: (B, C_out, H, W)

    Raises:
        ValueError: If a kernel is not odd and positive, `out_chs` is no multiple of `num_heads`, or the input has
            another shape.
        TypeError: If the input is not of floating point.

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
        """Start with equal rates and a convolution that sums the shifted maps."""
        for module in (self.conv1, self.conv2, self.conv3, self.conv_p, self.fc):
            module.reset_parameters()
        size = self.kernel_size
        with torch.no_grad():
            self.rate1.fill_(0.5)
            self.rate2.fill_(0.5)
            self.dep_conv.weight.copy_(torch.eye(size**2).view(1, size**2, size, size).expand_as(self.dep_conv.weight))
            self.dep_conv.get_parameter("bias").zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed features, see the class."""
        check_tensor("x", x, "B C H W", C=self.in_chs)
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        return self.rate1 * self._attention(q, k, v) + self.rate2 * self._convolution(q, k, v)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[-2:]
        k = k - self.conv_p(_coordinate_grid(height, width, q)).repeat(1, self.num_heads, 1, 1)
        q, k, v = (t.unflatten(1, (self.num_heads, self.head_dim)) for t in (q, k, v))
        if height * width <= DENSE_TOKENS:
            attended = _dense_attention(q, k, v, self.attn_kernel_size)
        else:
            attended = _shifted_attention(q, k, v, self.attn_kernel_size)
        return attended.flatten(1, 2)

    def _convolution(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        stacked = torch.cat([q, k, v], dim=1).unflatten(1, (3 * self.num_heads, self.head_dim))
        mixed = torch.einsum("tg,bgdhw->bdthw", self.fc.weight[:, :, 0, 0], stacked)
        return self.dep_conv(mixed.flatten(1, 2))

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"num_heads={self.num_heads}, attn_kernel_size={self.attn_kernel_size}"


def _dense_attention(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    """Attend within windows by fused attention over all tokens of (B, heads, d, H, W).

    A reflected pixel has the key and the value of the pixel it mirrors. So the softmax over a window is one over all
    tokens, each counted as often as the window holds it: its logit plus the logarithm of that number.
    """
    height, width = q.shape[-2:]
    rows, cols = (_log_multiplicity(n, size, q) for n in (height, width))
    log_count = (rows[:, None, :, None] + cols[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    q, k, v = (t.flatten(3).mT for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=log_count.to(q.dtype))
    return attended.mT.unflatten(3, (height, width))


def _log_multiplicity(length: int, size: int, like: Tensor) -> Tensor:
    """Return the logarithm of how often the window of pixel i holds pixel j along one axis, (length, length)."""
    windows = _reflected_indices(length, size // 2, like.device).unfold(0, size, 1)
    return F.one_hot(windows, length).sum(dim=1).to(torch.promote_types(like.dtype, torch.float32)).log()


def _shifted_attention(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    """Attend within windows of (B, heads, d, H, W) by summing over the shifts of the window."""
    height, width = q.shape[-2:]
    k, v = (_reflect_pad(t.flatten(1, 2), size // 2).unflatten(1, t.shape[1:3]) for t in (k, v))
    q = q * q.shape[2] ** -0.5
    shifts = [(slice(dy, dy + height), slice(dx, dx + width)) for dy in range(size) for dx in range(size)]
    logits = torch.stack([(q * k[..., rows, cols]).sum(dim=2) for rows, cols in shifts], dim=2)
    weights = logits.softmax(dim=2).to(v.dtype)
    attended = torch.zeros_like(q)
    for weight, (rows, cols) in zip(weights.unbind(dim=2), shifts, strict=True):
        attended = torch.addcmul(attended, weight.unsqueeze(2), v[..., rows, cols])
    return attended


def _coordinate_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the (1, 2, H, W) grid of x and y in [-1, 1]."""
    y = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).unsqueeze(0)


def _reflect_pad(x: Tensor, pad: int) -> Tensor:
    """Reflect at the border, as often as a map smaller than the window needs."""
    height, width = x.shape[-2:]
    if height > pad and width > pad:
        return F.pad(x, (pad, pad, pad, pad), mode="reflect")
    rows, cols = (_reflected_indices(size, pad, x.device) for size in (height, width))
    return x[..., rows[:, None], cols]


def _reflected_indices(size: int, pad: int, device: torch.device) -> Tensor:
    period = max(2 * (size - 1), 1)
    steps = torch.arange(-pad, size + pad, device=device).remainder(period)
    return torch.where(steps < size, steps, period - steps)
