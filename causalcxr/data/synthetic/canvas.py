"""Coordinate grids and textures shared by all synthetic radiographs of one image size."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 throughout

FILM_CM = 36.0  # length of the shorter side of every film
_HILUM_X = 2.6  # distance of the lung root from the midline, in cm
_WAVELENGTHS = {"coarse": 3.0, "fine": 0.8}  # of the textures, in cm
_MARGIN = 3.0  # largest offset of the midpoint between the lung roots from the film's centre, in cm


def cover(distance: Array, softness: float | Array) -> Array:
    """Convert a signed distance (positive inside) to coverage in [0, 1], with an edge of width `softness`."""
    return np.clip(distance / softness + 0.5, 0.0, 1.0)


class Canvas:
    """Grids and textures that depend only on the image size, not on the dataset's seed."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = height, width
        self.px = px = FILM_CM / min(height, width)  # side of one pixel in cm
        self.x: Array = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * px)[None]  # cm right of the centre
        self.y: Array = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * px)[:, None]  # cm below it
        rng = np.random.default_rng(20230521)
        self._margin = round(_MARGIN / px) + 1
        self._vessels = _draw_vessels(rng, height + 2 * self._margin, width + 2 * self._margin, px)
        self._textures = {
            name: _texture(rng, height + height // 2, width + width // 2, wavelength / px)
            for name, wavelength in _WAVELENGTHS.items()
        }

    def edge(self, softness: float) -> float:
        """Return the width of an edge in cm, at least one pixel."""
        return max(softness, self.px)

    def texture(self, scale: str, u: float, v: float) -> Array:
        """Return a "coarse" or "fine" crop (H, W) of unit-variance noise, at position (u, v) in [0, 1) x [0, 1)."""
        tile = self._textures[scale]
        H, W = self.shape
        top, left = int(u * (tile.shape[0] - H + 1)), int(v * (tile.shape[1] - W + 1))
        return tile[top : top + H, left : left + W]

    def vessels(self, x: float, y: float) -> Array:
        """Return the attenuation (H, W) of vessels whose lung roots are centred at (x, y), at most 3 cm away."""
        (H, W), top, left = self.shape, self._margin - round(y / self.px), self._margin - round(x / self.px)
        return self._vessels[top : top + H, left : left + W]


get_canvas = lru_cache(maxsize=4)(Canvas)


def _blur(image: Array, sigma: float) -> Array:
    """Blur with a Gaussian of `sigma` pixels and circular padding."""
    H, W = image.shape
    squared = np.fft.fftfreq(H)[:, None] ** 2 + np.fft.rfftfreq(W) ** 2
    return np.fft.irfft2(np.fft.rfft2(image) * np.exp(-2 * (np.pi * sigma) ** 2 * squared), s=(H, W))


def _texture(rng: np.random.Generator, height: int, width: int, wavelength: float) -> Array:
    """Return unit-variance Gaussian noise (height, width), band-passed near a wavelength in pixels."""
    noise = rng.standard_normal((height, width))
    field = _blur(noise, wavelength / 5) - _blur(noise, wavelength / 2)
    return (field / field.std()).astype(np.float32)


def _draw_vessels(rng: np.random.Generator, height: int, width: int, px: float) -> Array:
    """Return the attenuation (height, width) of vessels that branch and taper from two lung roots at the centre."""
    drawn = np.zeros((height, width))
    for side in (-1, 1):
        x, y, weight = _branches(rng)
        place = np.round(y / px + height / 2).astype(int), np.round(side * (_HILUM_X + x) / px + width / 2).astype(int)
        np.add.at(drawn, place, weight / px**2)
    # Saturate the sum where branches cross, so that the hilum looks solid.
    return (0.3 * np.tanh(_blur(drawn, max(0.1 / px, 0.5)) / 0.3)).astype(np.float32)


def _branches(rng: np.random.Generator) -> Array:
    """Return the points (x, y, weight) of the vessels of one lung with its root at (0, 0), (3, N).

    Stems fan out from the root, followed by two generations of branches. All bend slightly and taper.
    """
    points = []
    x = y = np.zeros(9)
    heading = np.linspace(-1.35, 1.45, 9) + rng.normal(0, 0.1, 9)
    radius, length = np.full(9, 0.3), 9.5
    for _ in range(3):
        along = np.linspace(0.0, 1.0, 100)[:, None]
        angle = heading + along * rng.normal(0, 0.4, heading.shape)
        step = length / 100
        xs, ys = x + np.cumsum(np.cos(angle), axis=0) * step, y + np.cumsum(np.sin(angle), axis=0) * step
        radii = radius * (1 - 0.65 * along)
        points.append(np.stack([xs, ys, radii**2 * step]).reshape(3, -1))
        start = rng.integers(20, 100, 3 * len(heading)), np.tile(np.arange(len(heading)), 3)
        x, y, radius = xs[start], ys[start], 0.8 * radii[start]
        heading = angle[start] + rng.choice([-1, 1], x.shape) * rng.uniform(0.4, 0.9, x.shape)
        length *= 0.55
    return np.concatenate(points, axis=1)
