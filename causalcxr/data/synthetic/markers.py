"""Markers on a film: a side letter and a stamp."""

from __future__ import annotations

import numpy as np

from causalcxr.data.synthetic.canvas import Array, Canvas

MARKERS = ("letter", "portable")
"""Names of the markers that a film may have."""

# Seven rows of five dots; the bits of each number are one row.
_FONT = {
    "A": (0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001),
    "B": (0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110),
    "E": (0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111),
    "L": (0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111),
    "O": (0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110),
    "P": (0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000),
    "R": (0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001),
    "T": (0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100),
}


def mark_image(image: Array, canvas: Canvas, marker: str, rng: np.random.Generator) -> None:
    """Draw a "letter" or the "portable" stamp on a developed film (H, W), in place and outside the lungs."""
    u: list[float] = rng.random(8).tolist()
    H, W = canvas.shape
    right, bottom = W * canvas.px / 2, H * canvas.px / 2
    if marker == "letter":
        side = 1 if u[0] < 0.6 else -1  # the patient's left is on the image's right
        text, height = "L" if side > 0 else "R", 1.9 + 0.5 * u[3]
        x, y = side * (right - 2.2 - 1.5 * u[1]), -bottom + 3.0 + 0.5 * u[2]
    else:
        side = -1 if u[0] < 0.6 else 1
        text, height = "PORTABLE", 1.2 + 0.2 * u[3]
        x = side * (right - 4.8 - 0.8 * u[1])
        y = -bottom + 0.9 + 0.3 * u[2] if u[5] < 0.6 else bottom - 1.2 - 0.8 * u[2]
    alpha = text_cover((H, W), text, x / canvas.px + W / 2, y / canvas.px + H / 2, height / 7 / canvas.px)
    image += alpha * (0.92 + 0.08 * u[4] - image)


def text_cover(shape: tuple[int, int], text: str, x: float, y: float, dot: float) -> Array:
    """Return the fraction of each pixel (H, W) that a text covers.

    The text is centred `x` pixels from the left and `y` from the top. Its dots have a side of `dot` pixels. Dots
    smaller than a pixel are averaged, as if the film were downscaled.
    """
    # An empty column follows each letter.
    dots = [[_FONT[letter][row] << 1 >> bit & 1 for letter in text for bit in range(5, -1, -1)] for row in range(7)]
    bitmap = np.array(dots, dtype=np.float32)
    down, across = (
        _overlap(number, middle - number * dot / 2, dot, pixels)
        for number, middle, pixels in zip(bitmap.shape, (y, x), shape, strict=True)
    )
    rows, columns, result = down.any(axis=1), across.any(axis=1), np.zeros(shape, dtype=np.float32)
    result[np.ix_(rows, columns)] = down[rows] @ bitmap @ across[columns].T
    return result


def _overlap(dots: int, start: float, size: float, pixels: int) -> Array:
    """Return the fraction of each pixel of a row that lies in each dot, (pixels, dots)."""
    low = start + size * np.arange(dots, dtype=np.float32)
    pixel = np.arange(pixels, dtype=np.float32)[:, None]
    return np.clip(np.minimum(pixel + 1, low + size) - np.maximum(pixel, low), 0.0, 1.0)
