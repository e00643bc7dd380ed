"""Localisation metrics for heat maps: the pointing game, a box around the peak, and the overlap of two boxes.

A box is `(x, y, w, h)`: upper left corner, width and height in pixels of the heat map, with x to the right and y down.
The pixel in row r and column c covers the square from (c, r) to (c + 1, r + 1). A `causalcxr.data.nih.Box` also holds
its label: pass `box[1:]`.

Interpolate the map to the image size instead of scaling the boxes down: on a coarse map, a small box may contain no
pixel centre.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from causalcxr._checks import check_tensor

__all__ = ["box_iou", "peak_box", "pointing_game"]


def pointing_game(heat_map: Tensor, boxes: Sequence[Any] | Tensor) -> bool:
    """Return whether the maximum of a heat map lies in one of the finding's boxes.

    This is the pointing game of Zhang et al. (IJCV 126, 2018); a model's score is the share of images with a hit. The
    maximum is located at its pixel's centre, and ties go to the first pixel in row-major order. Boxes get no margin. A
    map that is constant up to float32 rounding has no maximum and counts as a miss.

    Args:
        heat_map: Heat map of one image and one label, on any device.
        boxes: Boxes of that label, each (x, y, w, h) in pixels of the map.

    Shape:
        heat_map: (H, W). boxes: sequence of one or more boxes, or a tensor (M, 4).

    Returns:
        True for a hit, False for a miss.

    Raises:
        TypeError: The heat map is not a floating-point tensor.
        ValueError: The heat map is not (H, W), is empty or not finite. There are no boxes, a box is not four finite
            numbers with w and h not negative, or a box extends more than a pixel beyond the map.

    Example:
        >>> heat_map = torch.zeros(64, 64)
        >>> heat_map[10, 40] = 1.0
        >>> pointing_game(heat_map, [(36, 8, 10, 10)])
        True
    """
    heat = _unit_map(heat_map)
    if len(boxes) == 0:
        raise ValueError("boxes must hold at least one (x, y, w, h), got none; use images with the finding only")
    height, width = heat.shape
    checked = [_check_box("each box", box) for box in boxes]
    for x, y, w, h in checked:
        if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            raise ValueError(
                f"boxes must lie in the map of height {height} and width {width}, got {(x, y, w, h)}; pass them in "
                "pixels of the map, or interpolate the map to the size of the image"
            )
    row, column = _peak(heat)
    return bool(heat.any()) and any(x <= column + 0.5 < x + w and y <= row + 0.5 < y + h for x, y, w, h in checked)


def peak_box(heat_map: Tensor, *, threshold: float = 0.5) -> tuple[int, int, int, int]:
    """Return the bounding box of the region around the maximum of a heat map.

    The map is min-max scaled to [0, 1]. The region is the 8-connected component of pixels at or above `threshold` that
    contains the maximum; ties go to the first pixel in row-major order. Zhou et al. (CVPR 2016) box the largest region
    above 20 % of the maximum instead.

    Fix the threshold in advance, or choose it on boxes of other patients (Choe et al., CVPR 2020).

    Args:
        heat_map: Heat map of one image and one label, on any device.
        threshold: Threshold on the scaled map, in (0, 1].

    Shape:
        heat_map: (H, W).

    Returns:
        The box (x, y, w, h) in pixels of the map. A map that is constant up to float32 rounding has no peak and gives
        (0, 0, 0, 0), which overlaps no box.

    Raises:
        TypeError: The heat map is not a floating-point tensor.
        ValueError: The heat map is not (H, W), is empty or not finite, or the threshold is outside (0, 1].

    Example:
        >>> heat_map = torch.zeros(64, 64)
        >>> heat_map[10:14, 40:50] = 1.0
        >>> peak_box(heat_map)
        (40, 10, 10, 4)
    """
    heat = _unit_map(heat_map)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], e.g. 0.5, got {threshold}")
    if not heat.any():
        return 0, 0, 0, 0
    above = heat >= threshold
    region = torch.zeros_like(above)
    region[_peak(heat)] = True
    runs = _runs(above), _runs(above.T).T
    while True:  # grow by one pixel in all eight directions, then along whole runs of `above` in rows and columns
        grown = F.max_pool2d(region[None].float(), kernel_size=3, stride=1, padding=1)[0].bool() & above
        for run in runs:
            reached = torch.zeros(heat.numel() + 1, dtype=torch.bool, device=heat.device)
            reached[run[grown]] = True
            grown = above & reached[run]
        if torch.equal(grown, region):
            break
        region = grown
    rows, columns = region.any(dim=1).nonzero(), region.any(dim=0).nonzero()
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def box_iou(box: Any, other: Any) -> float:
    """Compute the intersection over union of two boxes, treated as continuous rectangles.

        IoU = |A and B| / (|A| + |B| - |A and B|)

    (Everingham et al., IJCV 88, 2010). No extra pixel is added to widths or heights.

    Args:
        box: One box (x, y, w, h).
        other: The other box, in the same coordinates.

    Returns:
        0 for boxes that share no area, which includes any box of zero area, up to 1 for equal boxes.

    Raises:
        ValueError: A box is not four finite numbers, or w or h is negative.

    Example:
        >>> box_iou((0, 0, 2, 2), (1, 0, 2, 2))  # 2 of 6
        0.3333333333333333
    """
    x, y, w, h = _check_box("box", box)
    u, v, s, t = _check_box("other", other)
    left, right, top, bottom = (x, u), (x + w, u + s), (y, v), (y + h, v + t)
    width, height = min(right) - max(left), min(bottom) - max(top)
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((right[i] - left[i]) * (bottom[i] - top[i]) for i in (0, 1))
    return width * height / (areas - width * height)


def _runs(above: Tensor) -> Tensor:
    """Number the runs of True along each row (H, W)."""
    starts = above & ~F.pad(above, (1, 0))[:, :-1]
    return starts.flatten().cumsum(0).view_as(above)


def _check_box(name: str, box: Any) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(number) for number in box)
    except (TypeError, ValueError):
        cure = "pass box[1:] of a causalcxr.data.nih.Box; for one box where several are expected, pass [box]"
        raise ValueError(f"{name} must be four numbers (x, y, w, h), got {box!r}; {cure}") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise ValueError(f"{name} must be finite with w and h not negative, got (x, y, w, h) = {(x, y, w, h)}")
    return x, y, w, h


def _peak(heat: Tensor) -> tuple[int, int]:
    return divmod(int(heat.argmax()), heat.shape[1])  # argmax returns the first of equal values


def _unit_map(heat_map: Any) -> Tensor:
    """Validate and min-max scale to [0, 1] in float64; all zeros if the map is constant up to float32 rounding."""
    check_tensor("heat_map", heat_map, "H W")
    if heat_map.numel() == 0 or not heat_map.isfinite().all():
        bad = heat_map.numel() - int(heat_map.isfinite().sum())
        raise ValueError(
            f"heat_map must be finite and not empty, got shape {tuple(heat_map.shape)} with {bad} values of NaN or "
            "infinity"
        )
    heat = heat_map.detach().cpu().double()
    low, high = float(heat.min()), float(heat.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return torch.zeros_like(heat)
    return (heat - low) / (high - low)
