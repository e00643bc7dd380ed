"""What is on a film besides the patient: letters, a stamp, devices, and the black border of the collimator."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from causalcxr.data.synthetic.anatomy import Film
from causalcxr.data.synthetic.canvas import Array, Canvas, cover

MARKERS = ("letter", "portable", "tube", "electrodes", "border")
"""Names of what may be on a film besides the patient."""
DEVICES = ("tube", "electrodes")

# Seven rows of five dots; the bits of each number are the dots of a row.
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


def device_density(film: Film, marker: str, rng: np.random.Generator) -> Array:
    """Attenuation (H, W) of a device on or in the chest: a "tube" or "electrodes" with their leads."""
    u = [float(value) for value in rng.random(12)]
    if marker == "tube":
        return _tube(film, u)
    density = np.zeros(film.canvas.shape, dtype=np.float32)
    for n in range(3):
        a, b, c = u[3 * n : 3 * n + 3]
        dx, y = (2 * a - 1) * 10.0, (-11.0, -4.0, 3.0)[n] + 5.0 * b
        bend = dx + (0.15 + 0.1 * c) * (1 if dx > 0 else -1) * (y - film.y) + 0.8 * np.sin(0.5 * (y - film.y))
        lead = _line(film, bend) * (film.y < y)
        disc = np.sqrt((film.dx - dx) ** 2 + (film.y - y) ** 2)
        edge = film.canvas.edge(0.2)
        density += np.maximum(0.12 * lead, 0.2 * cover(0.9 - disc, edge) + 0.3 * cover(0.4 - disc, edge))
    return density


def _tube(film: Film, u: list[float]) -> Array:
    """A tube in the windpipe, a stomach tube, a central line, or a drain."""
    y, kind = film.y, int(4 * u[0])
    if kind == 0:
        return 0.3 * _line(film, 0.3 * np.sin(0.2 * y + 6 * u[1])) * (y < -5.5 + 2.0 * u[2])
    if kind == 1:
        course = 0.4 * np.sin(0.25 * y + 6 * u[1]) + 3.5 * np.clip((y - 3.0) / 5.0, 0.0, 1.0) ** 2
        return 0.3 * _line(film, course) * (y < 7.5 + 2.0 * u[2])
    side = -1 if u[1] < 0.7 else 1
    if kind == 2:
        course = side * (2.6 + (0.5 + 0.4 * u[3]) * np.maximum(-10.0 - y, 0.0) ** 1.3)
        return 0.28 * _line(film, course) * (y < -3.0 + 3.0 * u[2])
    start = -7.0 + 4.0 * u[2]
    course = side * (5.0 + 3.0 * u[3] + 6.0 * np.clip((y - start) / 14.0, 0.0, 2.0) ** 2)
    return 0.35 * _line(film, course) * ((y > start) & (y < start + 15.0))


def _line(film: Film, course: Array) -> Array:
    """Coverage (H, W) by a thin line whose distance from the midline per row is ``course`` (H, 1)."""
    steep = np.sqrt(1.0 + (np.gradient(course[:, 0])[:, None] * (1.0 / film.canvas.px)) ** 2)
    return cover(0.18 - np.abs(film.dx - course) / steep, film.canvas.edge(0.2))


def mark_image(image: Array, canvas: Canvas, marker: str, rng: np.random.Generator) -> None:
    """Mark a developed film (H, W) in place with a "letter", the "portable" stamp or a "border", outside the lungs."""
    u = [float(value) for value in rng.random(8)]
    H, W = canvas.shape
    right, bottom = W * canvas.px / 2, H * canvas.px / 2
    if marker == "letter":
        side = 1 if u[0] < 0.6 else -1  # the patient's left is on the image's right
        place = (side * (right - 2.2 - 1.5 * u[1]), -bottom + 3.0 + 0.5 * u[2])
        _paste(image, canvas, "L" if side > 0 else "R", place, 1.9 + 0.5 * u[3], 0.92 + 0.08 * u[4])
    elif marker == "portable":
        side = -1 if u[0] < 0.6 else 1
        y = -bottom + 0.9 + 0.3 * u[2] if u[5] < 0.6 else bottom - 1.2 - 0.8 * u[2]
        place = (side * (right - 4.8 - 0.8 * u[1]), y)
        _paste(image, canvas, "PORTABLE", place, 1.2 + 0.2 * u[3], 0.92 + 0.08 * u[4])
    else:
        sides = [max(1, round((0.4 + 1.4 * width) / canvas.px)) if width < 0.75 else 0 for width in u[:3]]
        left, right_columns, lower = sides if any(sides) else [max(1, round(1.0 / canvas.px)), 0, 0]
        for edge in (image[:, :left], image[:, W - right_columns :], image[H - lower :]):
            edge *= 0.05


@lru_cache(maxsize=16)
def _dots(text: str) -> Array:
    """Bitmap (7, 6 n) of n letters, each followed by an empty column."""
    rows = [
        [_FONT[letter][row] >> bit & 1 if bit >= 0 else 0 for letter in text for bit in range(4, -2, -1)]
        for row in range(7)
    ]
    return np.array(rows, dtype=np.float32)


def _overlap(dots: int, start: float, size: float, pixels: int) -> tuple[slice, Array]:
    """The pixels that a row of dots touches, and which part of each pixel (P, dots) lies in each dot."""
    first, last = max(0, int(np.floor(start))), min(pixels, int(np.ceil(start + dots * size)))
    low = start + size * np.arange(dots, dtype=np.float32)
    pixel = np.arange(first, last, dtype=np.float32)[:, None]
    return slice(first, last), np.clip(np.minimum(pixel + 1, low + size) - np.maximum(pixel, low), 0.0, 1.0)


def text_cover(shape: tuple[int, int], text: str, x: float, y: float, dot: float) -> tuple[slice, slice, Array]:
    """The rows and columns of an image that a text touches, and which part of each of these pixels its dots cover.

    The text is centred ``x`` pixels from the left and ``y`` from the top, with dots of ``dot`` pixels a side; dots
    smaller than a pixel are averaged, as scaling a film down would.
    """
    bitmap = _dots(text)
    rows, down = _overlap(bitmap.shape[0], y - bitmap.shape[0] * dot / 2, dot, shape[0])
    columns, across = _overlap(bitmap.shape[1], x - bitmap.shape[1] * dot / 2, dot, shape[1])
    return rows, columns, down @ bitmap @ across.T


def _paste(image: Array, canvas: Canvas, text: str, place: tuple[float, float], height: float, value: float) -> None:
    """Paint text centred at a place in cm."""
    H, W = canvas.shape
    x, y = place[0] / canvas.px + W / 2, place[1] / canvas.px + H / 2
    rows, columns, alpha = text_cover((H, W), text, x, y, height / 7 / canvas.px)
    image[rows, columns] += alpha * (value - image[rows, columns])
