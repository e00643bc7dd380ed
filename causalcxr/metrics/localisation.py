"""Localisation metric for heat maps: the pointing game."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from causalcxr._checks import check_tensor

__all__ = ["pointing_game"]


def pointing_game(heat_map: Tensor, boxes: Sequence[Any] | Tensor) -> bool:
    """Return whether the maximum of a heat map lies in one of the finding's boxes.

    This is the pointing game of Zhang et al. (IJCV 126, 2018); a model's score is the share of images with a hit. The
    maximum is located at its pixel's centre, and ties go to the first pixel in row-major order. Boxes get no margin. A
    map that is constant up to float32 rounding has no maximum and counts as a miss.

    Interpolate the map to the image size instead of scaling the boxes down: on a coarse map, a small box may contain no
    pixel centre.

    Args:
        heat_map: Heat map of one image and one label, on any device.
        boxes: Boxes of that label, each (x, y, w, h) in pixels of the map: upper left corner, width and height, with x
            to the right and y down. Pass `box[1:]` of a `causalcxr.data.nih.Box`, which also holds its label.

    Shape:
        heat_map: (H, W). boxes: sequence of one or more boxes, or a tensor (M, 4).

    Returns:
        True for a hit, False for a miss.

    Raises:
        TypeError: The heat map is not a floating-point tensor.
        ValueError: The heat map is not (H, W), is empty or not finite. There are no boxes, a box is not four finite
            numbers with w and h not negative, or a box extends more than a pixel beyond the map.

    Example:
        >>> import torch
        >>> heat_map = torch.zeros(64, 64)
        >>> heat_map[10, 40] = 1.0
        >>> pointing_game(heat_map, [(36, 8, 10, 10)])
        True
    """
    check_tensor("heat_map", heat_map, "H W")
    height, width = heat_map.shape
    if heat_map.numel() == 0 or not heat_map.isfinite().all():
        bad = heat_map.numel() - int(heat_map.isfinite().sum())
        raise ValueError(
            f"heat_map must be finite and not empty, got {height}x{width} with {bad} values of NaN or infinity"
        )
    if len(boxes) == 0:
        raise ValueError("boxes must hold at least one (x, y, w, h), got none; use images with the finding only")
    checked = [_check_box(box) for box in boxes]
    for x, y, w, h in checked:
        if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            raise ValueError(
                f"boxes must lie in the map of height {height} and width {width}, got {(x, y, w, h)}; pass them in "
                "pixels of the map, or interpolate the map to the size of the image"
            )
    heat = heat_map.detach().cpu()
    low, high = float(heat.min()), float(heat.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return False
    row, column = divmod(int(heat.argmax()), width)  # argmax returns the first of equal values
    return any(x <= column + 0.5 < x + w and y <= row + 0.5 < y + h for x, y, w, h in checked)


def _check_box(box: Any) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(number) for number in box)
    except (TypeError, ValueError):
        cure = "pass box[1:] of a causalcxr.data.nih.Box; for one box where several are expected, pass [box]"
        raise ValueError(f"each box must be four numbers (x, y, w, h), got {box!r}; {cure}") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise ValueError(f"each box must be finite with w and h not negative, got (x, y, w, h) = {(x, y, w, h)}")
    return x, y, w, h
