"""Input-level intervention: regions of an image are borrowed from another image of the batch."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_count, check_range, check_tensor

__all__ = ["BorrowRegions"]


class BorrowRegions(nn.Module):
    r"""Keep a region of each image, take the rest from another image of the batch, and leave the label alone.

    This is "borrow from others" of Nie et al. (arXiv 2305.12072), on pixels instead of features. A mask m_i in [0, 1]
    says what is kept. It does not depend on the label. With another image pi(i) of the batch,

    .. math:: \tilde x_i = m_i \, x_i + (1 - m_i) \, x_{\pi(i)}, \qquad \tilde y_i = y_i.

    What lies outside the kept region is then independent of the label. Labels are not mixed, unlike in CutMix (Yun et
    al., ICCV 2019). The price is the evidence that the borrowed regions held.

    Two kinds of region are kept:

    - `"boxes"`: all but a few boxes at random places. Options: `num_boxes=2`, and `size=(0.14, 0.36)`, the range of the
      boxes' sides in parts of the image's.
    - `"thorax"`: a soft ellipse around the middle, for marks that lie at the border. Its size and place are random.
      Options: `size=(0.6, 0.95)`, the range of its axes in parts of the image's sides, `shift=0.05`, how far its centre
      may lie off, and `softness=0.1`, the width of its border.

    Every image lends to exactly one other. The module is active in training mode, and the identity after `eval()`.

    Args:
        region: `"boxes"` or `"thorax"`.
        probability: Part of the images that borrow. The others still show their marks. Where the finding is hard to
            see, these few are enough for a model to rely on them, so take 1 there.
        **options: Options of the region, as above.

    Shape:
        - images: (B, C, H, W); a batch of one has nobody to borrow from and stays as it is
        - Output: (B, C, H, W)

    Raises:
        ValueError: If the region is unknown, an option out of range, or a shape does not fit.
        TypeError: If an option is unknown, or images are not of floating point.

    Example:
        >>> import torch
        >>> borrow = BorrowRegions("boxes", num_boxes=3)
        >>> borrow(torch.randn(4, 1, 64, 64)).shape
        torch.Size([4, 1, 64, 64])
    """

    def __init__(self, region: str = "boxes", *, probability: float = 0.8, **options: Any) -> None:
        super().__init__()
        check_choice("region", region, tuple(REGIONS))
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], but got {probability}")
        known = [name for name, p in inspect.signature(REGIONS[region]).parameters.items() if p.kind is p.KEYWORD_ONLY]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"region {region!r} has no option {unknown[0]!r}, its options are {', '.join(known)}")
        for name, value in options.items():
            _check_option(name, value)
        self.region, self.probability, self.options = region, probability, options

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the images with borrowed regions, see the class. `generator` (on the CPU) draws all that is random."""
        check_tensor("images", images, "B C H W")
        if not self.training or len(images) < 2:
            return images
        draw = functools.partial(torch.rand, generator=generator)
        borrows = draw(len(images), 1, 1, 1) < self.probability
        shift = int(torch.randint(1, len(images), (), generator=generator))
        keep = REGIONS[self.region](images.shape, draw, **self.options)
        borrows, keep = (x.to(images.device, non_blocking=True) for x in (borrows, keep))
        keep = torch.where(borrows, keep.to(images.dtype), 1.0)
        return torch.lerp(images.roll(shift, dims=0), images, keep)

    def extra_repr(self) -> str:
        """Options, for printing."""
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"{self.region!r}, probability={self.probability}{options}"


def _boxes(shape: torch.Size, draw: Any, *, num_boxes: int = 2, size: tuple[float, float] = (0.14, 0.36)) -> Tensor:
    """Return 0 within boxes that lie inside the image, 1 elsewhere, (B, 1, H, W)."""
    sides = size[0] + draw(shape[0], num_boxes, 2) * (size[1] - size[0])
    starts = draw(shape[0], num_boxes, 2) * (1 - sides)
    inside = []
    for axis, length in enumerate(shape[-2:]):
        centres = (torch.arange(length) + 0.5) / length
        start, side = starts[..., axis, None], sides[..., axis, None]
        inside.append((centres >= start) & (centres < start + side))  # (B, boxes, length)
    rows, cols = inside
    return ~(rows[..., :, None] & cols[..., None, :]).any(dim=1, keepdim=True)


def _thorax(
    shape: torch.Size,
    draw: Any,
    *,
    size: tuple[float, float] = (0.6, 0.95),
    shift: float = 0.05,
    softness: float = 0.1,
) -> Tensor:
    """Return 1 within an ellipse, falling to 0 at its border, (B, 1, H, W)."""
    axes = size[0] + draw(shape[0], 2, 1) * (size[1] - size[0])
    centres = (2 * draw(shape[0], 2, 1) - 1) * 2 * shift
    rows, cols = (
        ((torch.arange(1 - length, length, 2) / length - centres[:, axis]) / axes[:, axis]).square()
        for axis, length in enumerate(shape[-2:])
    )
    radius = (rows[:, None, :, None] + cols[:, None, None, :]).sqrt()
    return ((1 - radius) / softness + 0.5).clamp(0, 1)


REGIONS: dict[str, Callable[..., Tensor]] = {"boxes": _boxes, "thorax": _thorax}


def _check_option(name: str, value: Any) -> None:
    if name == "num_boxes":
        check_count(name, value)
    elif name == "size":
        check_range(name, value, example=(0.14, 0.36))
    elif not (0 < value <= 1 or (value == 0 and name == "shift")):
        raise ValueError(f"{name} must lie in (0, 1], but got {value!r}")
