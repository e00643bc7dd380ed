"""Input-level intervention that borrows regions from another image of the batch."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_count, check_range, check_tensor

__all__ = ["BorrowRegions"]

SIZES = {"boxes": (0.14, 0.36), "thorax": (0.6, 0.95)}
SHIFT = 0.05  # largest offset of the ellipse's centre, as a fraction of the image sides
SOFTNESS = 0.1  # width of the ellipse's edge relative to its radius


class BorrowRegions(nn.Module):
    r"""Keep a region of each image and its label, and take the rest from another image of the batch.

    This is the "borrow from others" of Nie et al. (arXiv 2305.12072), on pixels instead of features. A mask m_i in
    [0, 1], independent of the label, marks what is kept. With another image pi(i) of the batch,

    .. math:: \tilde x_i = m_i \, x_i + (1 - m_i) \, x_{\pi(i)}, \qquad \tilde y_i = y_i.

    The pixels outside the kept region are then independent of the label. Unlike in CutMix (Yun et al., ICCV 2019),
    labels are not mixed. The image loses the evidence in the replaced regions.

    Two kinds of region can be kept:

    - `"boxes"`: all but a few randomly placed boxes.
    - `"thorax"`: a soft ellipse of random size around the centre, against markers near the border.

    Each image is the source for at most one other. The module is the identity in evaluation mode.

    Args:
        region: `"boxes"` or `"thorax"`.
        probability: Probability that an image borrows. The others keep their markers. If the finding is subtle, a model
            can still learn the markers from them, so use 1.
        size: Range of the box sides, or of the axes of the ellipse, as fractions of the image sides. Default:
            (0.14, 0.36) for boxes, (0.6, 0.95) for the thorax.
        num_boxes: Number of boxes, for `"boxes"` only.

    Shape:
        - images: (B, C, H, W). A batch of one is returned unchanged
        - Output: (B, C, H, W)

    Raises:
        ValueError: If the region is unknown, an option is out of range, or the images have the wrong shape.
        TypeError: If the images are not a floating-point tensor.

    Example:
        >>> import torch
        >>> borrow = BorrowRegions("boxes", num_boxes=3)
        >>> borrow(torch.randn(4, 1, 64, 64)).shape
        torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self,
        region: str = "boxes",
        *,
        probability: float = 0.8,
        size: tuple[float, float] | None = None,
        num_boxes: int = 2,
    ) -> None:
        super().__init__()
        check_choice("region", region, tuple(SIZES))
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], but got {probability}")
        size = SIZES[region] if size is None else size
        check_range("size", size, example=SIZES[region])
        check_count("num_boxes", num_boxes)
        self.region, self.probability, self.size, self.num_boxes = region, probability, size, num_boxes

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the images with borrowed regions. `generator`, on the CPU, is the source of all randomness."""
        check_tensor("images", images, "B C H W")
        if not self.training or len(images) < 2:
            return images
        draw = functools.partial(torch.rand, generator=generator)
        borrows = draw(len(images), 1, 1, 1) < self.probability
        shift = int(torch.randint(1, len(images), (), generator=generator))
        keep = self._outside_boxes(images.shape, draw) if self.region == "boxes" else self._thorax(images.shape, draw)
        borrows, keep = (x.to(images.device, non_blocking=True) for x in (borrows, keep))
        keep = torch.where(borrows, keep.to(images.dtype), 1.0)
        return torch.lerp(images.roll(shift, dims=0), images, keep)

    def extra_repr(self) -> str:
        """Return the options to print."""
        return f"{self.region!r}, probability={self.probability}, size={self.size}, num_boxes={self.num_boxes}"

    def _outside_boxes(self, shape: torch.Size, draw: Any) -> Tensor:
        """Return a mask (B, 1, H, W) that is 0 in boxes inside the image and 1 elsewhere."""
        sides = self.size[0] + draw(shape[0], self.num_boxes, 2) * (self.size[1] - self.size[0])
        starts = draw(shape[0], self.num_boxes, 2) * (1 - sides)
        inside = []
        for axis, length in enumerate(shape[-2:]):
            centres = (torch.arange(length) + 0.5) / length
            start, side = starts[..., axis, None], sides[..., axis, None]
            inside.append((centres >= start) & (centres < start + side))  # (B, boxes, length)
        rows, cols = inside
        return ~(rows[..., :, None] & cols[..., None, :]).any(dim=1, keepdim=True)

    def _thorax(self, shape: torch.Size, draw: Any) -> Tensor:
        """Return a mask (B, 1, H, W) that is 1 in an ellipse and falls to 0 at its edge."""
        axes = self.size[0] + draw(shape[0], 2, 1) * (self.size[1] - self.size[0])
        centres = (2 * draw(shape[0], 2, 1) - 1) * 2 * SHIFT
        rows, cols = (
            ((torch.arange(1 - length, length, 2) / length - centres[:, axis]) / axes[:, axis]).square()
            for axis, length in enumerate(shape[-2:])
        )
        radius = (rows[:, None, :, None] + cols[:, None, None, :]).sqrt()
        return ((1 - radius) / SOFTNESS + 0.5).clamp(0, 1)
