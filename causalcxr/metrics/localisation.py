"""Localisation metric for heat maps: the pointing game."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from causalcxr._checks import check_tensor

__all__ = ["pointing_game"]


def pointing_game(heat_map: Tensor, boxes: Sequence[Any] | Tensor) -> bool:
    """Return whether the maximum of a heat map lies in one of the finding's boxes.

    This is the pointing game of Zhang et al. (IJCV 126, 2018); a model's score is the share of images with a hit. The
    maximum is located at its pixel's centre, and ties go to the first pixel in row-major order. Boxes have no tolerance
    margin. A map that is constant up to float32 rounding has no maximum and counts as a miss.

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
    try:
        x, y, w, h = np.array([[float(number) for number in box] for box in boxes]).T
    except (TypeError, ValueError):
        cure = "pass box[1:] of a causalcxr.data.nih.Box, and [box] for a single box"
        raise ValueError(f"boxes must hold at least one (x, y, w, h), got {boxes!r:.300}; {cure}") from None
    inside = (x >= -1) & (y >= -1) & (x + w <= width + 1) & (y + h <= height + 1)
    if not (inside & (w >= 0) & (h >= 0)).all():  # written so that NaN fails
        raise ValueError(
            f"boxes must lie in the map of height {height} and width {width}, finite, with w and h not negative, got "
            f"{boxes!r:.300}; pass them in pixels of the map, or interpolate the map to the size of the image"
        )
    heat = heat_map.detach().cpu()
    low, high = float(heat.min()), float(heat.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return False
    row, column = divmod(int(heat.argmax()), width)  # argmax returns the first of equal values
    hit = (x <= column + 0.5) & (column + 0.5 < x + w) & (y <= row + 0.5) & (row + 0.5 < y + h)
    return bool(hit.any())
