"""What is on a film besides the patient: letters, a stamp, devices, and the black border of the collimator."""

from __future__ import annotations

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
    u: list[float] = rng.random(12).tolist()
    if marker == "tube":
        return _tube(film, u)
    density = np.zeros(film.canvas.shape, dtype=np.float32)
    for n in range(3):
        a, b, c = u[3 * n : 3 * n + 3]
        dx, y = (2 * a - 1) * 10.0, (-11.0, -4.0, 3.0)[n] + 5.0 * b
        bend = dx + (0.15 + 0.1 * c) * (1 if dx > 0 else -1) * (y - film.y) + 0.8 * np.sin(0.5 * (y - film.y))
        lead = _line(film, bend) * (film.y < y)
        disc, edge = np.sqrt((film.dx - dx) ** 2 + (film.y - y) ** 2), film.edge(0.2)
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
    """Coverage (H, W) by a thin line whose distance from the midline per row is `course` (H, 1)."""
    steep = np.sqrt(1.0 + (np.gradient(course[:, 0])[:, None] * (1.0 / film.canvas.px)) ** 2)
    return cover(0.18 - np.abs(film.dx - course) / steep, film.edge(0.2))


def mark_image(image: Array, canvas: Canvas, marker: str, rng: np.random.Generator) -> None:
    """Mark a developed film (H, W) in place with a "letter", the "portable" stamp or a "border", outside the lungs."""
    u: list[float] = rng.random(8).tolist()
    H, W = canvas.shape
    right, bottom = W * canvas.px / 2, H * canvas.px / 2
    if marker == "border":
        sides = [max(1, round((0.4 + 1.4 * width) / canvas.px)) if width < 0.75 else 0 for width in u[:3]]
        left, right_columns, lower = sides if any(sides) else [max(1, round(1.0 / canvas.px)), 0, 0]
        for edge in (image[:, :left], image[:, W - right_columns :], image[H - lower :]):
            edge *= 0.05
        return
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
    """Which part of each pixel (H, W) a text covers.

    The text is centred `x` pixels from the left and `y` from the top, with dots of `dot` pixels a side; dots smaller
    than a pixel are averaged, as scaling a film down would.
    """
    # Each letter is followed by an empty column.
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
    """Which part of each pixel of a row lies in each dot, (pixels, dots)."""
    low = start + size * np.arange(dots, dtype=np.float32)
    pixel = np.arange(pixels, dtype=np.float32)[:, None]
    return np.clip(np.minimum(pixel + 1, low + size) - np.maximum(pixel, low), 0.0, 1.0)
