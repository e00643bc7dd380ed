"""Markers painted on radiographs: letters and a stamp at the border, a tube and an electrode in the thorax."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from causalcxr._checks import check_choice, check_tensor
from causalcxr.data.synthetic import cover, text_cover

__all__ = ["MARKERS", "paint"]

Array = npt.NDArray[Any]  # float32 throughout
_SMALLEST = 32  # pixels; letters are then 3 to 4 pixels high


def paint(image: Tensor, kind: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint a marker on a radiograph, with random position, size and contrast.

    A marker blocks radiation: with opacity a in [0, 1], a pixel v becomes v + a (1 - v). It is invisible on white, and
    on a black image the result is the opacity itself. The kinds:

    - `"letter"`: an L or R in a corner, 9 to 14 % of the shorter side high.
    - `"portable"`: the word PORTABLE along the upper edge or in a lower corner, 32 to 44 % of the shorter side wide.
    - `"tube"`: a piece of a bent tube in the thorax, 30 to 50 % of the shorter side long and 3 to 4 % wide.
    - `"electrode"`: a disc with a bright snap and a lead, in the thorax, 9 to 13 % of the shorter side wide.

    The thorax is not detected, but assumed to be in the middle of the image.

    Args:
        image: One greyscale radiograph in [0, 1], not modified.
        kind: One of `MARKERS`.
        rng: Random generator. Generators in the same state paint the same marker.

    Shape:
        image: (1, H, W), at least 32 pixels a side.

    Returns:
        The painted image (1, H, W), and the mask of the marker, (H, W) bool.

    Raises:
        TypeError: The image is not a floating-point tensor.
        ValueError: The image has the wrong shape, is too small or has values outside [0, 1], or the kind is unknown.

    Example:
        >>> image, mask = paint(torch.zeros(1, 128, 128), "letter", np.random.default_rng(0))
        >>> bool(((image[0] > 0) == mask).all())
        True
    """
    check_choice("kind", kind, MARKERS)
    check_tensor("image", image, "C H W", C=1)
    height, width = image.shape[1:]
    if min(height, width) < _SMALLEST:
        raise ValueError(f"markers need images of at least {_SMALLEST} pixels a side, got {height} x {width}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise ValueError(f"image must lie in [0, 1], got values from {low:g} to {high:g}; divide 8-bit values by 255")
    opacity = torch.from_numpy(_DRAWERS[kind](height, width, rng.random(10).tolist())).to(image)
    return image + opacity * (1 - image), opacity > 0


def _letter(H: int, W: int, u: list[float]) -> Array:
    dot = min(H, W) * (0.09 + 0.05 * u[0]) / 7
    x = (0.02 + 0.10 * u[1]) * W + 2.5 * dot
    y = (0.02 + 0.08 * u[2]) * H + 3.5 * dot
    x, y = W - x if u[3] < 0.5 else x, H - y if u[4] < 0.2 else y
    return (0.75 + 0.25 * u[5]) * _text(H, W, "L" if u[6] < 0.5 else "R", x, y, dot)


def _portable(H: int, W: int, u: list[float]) -> Array:
    dot = min(H, W) * (0.32 + 0.12 * u[0]) / 47
    margin = 0.02 * W + 23.5 * dot
    y = (0.01 + 0.05 * u[1]) * H + 3.5 * dot
    if u[2] < 0.75:  # anywhere along the upper edge
        x = margin + u[3] * (W - 2 * margin)
    else:
        x, y = (margin if u[3] < 0.5 else W - margin), H - y
    return (0.75 + 0.25 * u[4]) * _text(H, W, "PORTABLE", x, y, dot)


def _tube(H: int, W: int, u: list[float]) -> Array:
    side, angle = min(H, W), 2 * math.pi * u[0]
    length = side * (0.3 + 0.2 * u[1])
    x = W * (0.37 + 0.26 * u[2]) - length / 2 * math.cos(angle)
    y = H * (0.37 + 0.26 * u[3]) - length / 2 * math.sin(angle)
    half_width = side * (0.014 + 0.007 * u[4])
    return (0.7 + 0.3 * u[6]) * _strip(H, W, (x, y), angle, length, 0.7 * u[5] - 0.35, half_width)


def _electrode(H: int, W: int, u: list[float]) -> Array:
    side = min(H, W)
    x, y, radius = W * (0.25 + 0.5 * u[0]), H * (0.2 + 0.55 * u[1]), side * (0.045 + 0.02 * u[2])
    columns, rows = _pixels(H, W)
    distance = np.hypot(columns - x, rows - y)
    disc = np.maximum(0.65 * cover(radius - distance, 1.0), cover(0.5 * radius - distance, 1.0))
    length, half_width = side * (0.2 + 0.2 * u[3]), max(0.5, 0.005 * side)
    lead = _strip(H, W, (x, y), 2 * math.pi * u[4], length, 0.8 * u[5] - 0.4, half_width)
    return (0.7 + 0.3 * u[6]) * np.maximum(disc, 0.75 * lead)


def _text(H: int, W: int, text: str, x: float, y: float, dot: float) -> Array:
    """Return the opacity of text centred x pixels from the left and y from the top."""
    return text_cover((H, W), text, x + dot / 2, y, dot)  # `text_cover` counts an empty column at the end


def _strip(
    H: int, W: int, start: tuple[float, float], angle: float, length: float, bend: float, half_width: float
) -> Array:
    """Return the opacity of a strip from (x, y) that ends `bend` times its length off its initial direction."""
    columns, rows = _pixels(H, W)
    dx, dy = columns - start[0], rows - start[1]
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = dy * math.cos(angle) - dx * math.sin(angle)
    slope = 2 * bend * along / length
    distance = np.abs(across - bend * along**2 / length) / np.sqrt(1 + slope**2)
    return cover(half_width - distance, max(1.0, half_width)) * cover(np.minimum(along, length - along), 1.0)


def _pixels(H: int, W: int) -> tuple[Array, Array]:
    """Return the centres of columns (1, W) and rows (H, 1), in pixels."""
    return np.arange(W, dtype=np.float32)[None] + 0.5, np.arange(H, dtype=np.float32)[:, None] + 0.5


_DRAWERS: dict[str, Callable[[int, int, list[float]], Array]] = {
    "letter": _letter,
    "portable": _portable,
    "tube": _tube,
    "electrode": _electrode,
}
MARKERS = tuple(_DRAWERS)
"""Kinds of markers for [`paint`][causalcxr.bench.paint]."""
