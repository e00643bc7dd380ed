"""Input-level intervention that borrows regions from another image of the batch."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_count, check_range, check_tensor

__all__ = ["BorrowRegions"]


class BorrowRegions(nn.Module):
    r"""Keep a region of each image and its label, and take the rest from another image of the batch.

    This is the "borrow from others" of Nie et al. (arXiv 2305.12072), on pixels instead of features. A mask m_i in
    [0, 1], independent of the label, marks what is kept. With another image pi(i) of the batch,

    .. math:: \tilde x_i = m_i \, x_i + (1 - m_i) \, x_{\pi(i)}, \qquad \tilde y_i = y_i.

    The pixels outside the kept region are then independent of the label. Unlike in CutMix (Yun et al., ICCV 2019),
    labels are not mixed. The cost is the evidence in the replaced regions.

    Two kinds of region can be kept:

    - `"boxes"`: all but a few randomly placed boxes. Options: `num_boxes=2`, and `size=(0.14, 0.36)`, the range of the
      box sides as fractions of the image sides.
    - `"thorax"`: a soft ellipse of random size and position around the centre, against markers near the border.
      Options: `size=(0.6, 0.95)`, the range of its axes as fractions of the image sides, `shift=0.05`, the largest
      offset of its centre, also as a fraction, and `softness=0.1`, the width of its edge relative to its radius.

    Each image lends to at most one other. The module is the identity in evaluation mode.

    Args:
        region: `"boxes"` or `"thorax"`.
        probability: Probability that an image borrows. The others still show their markers. If the finding is subtle,
            these few are enough for a model to rely on the markers, so use 1.
        **options: Options of the region, as above.

    Shape:
        - images: (B, C, H, W). A batch of one is returned unchanged
        - Output: (B, C, H, W)

    Raises:
        ValueError: If the region is unknown, an option is out of range, or the images have the wrong shape.
        TypeError: If an option is unknown, or the images are not a floating-point tensor.

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
            raise TypeError(f"region {region!r} has no option {unknown[0]!r}; its options are {', '.join(known)}")
        for name, value in options.items():
            _check_option(name, value)
        self.region, self.probability, self.options = region, probability, options

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the images with borrowed regions. `generator`, on the CPU, is the source of all randomness."""
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
        """Return the options to print."""
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"{self.region!r}, probability={self.probability}{options}"


def _boxes(shape: torch.Size, draw: Any, *, num_boxes: int = 2, size: tuple[float, float] = (0.14, 0.36)) -> Tensor:
    """Return a mask (B, 1, H, W) that is 0 in boxes inside the image and 1 elsewhere."""
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
    """Return a mask (B, 1, H, W) that is 1 in an ellipse and falls to 0 at its edge."""
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
