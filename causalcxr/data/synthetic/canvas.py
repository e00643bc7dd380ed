"""Coordinate grids and textures that all synthetic radiographs of one image size share."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 throughout

FILM_CM = 36.0  # the shorter side of every film
_HILUM_X = 3.4  # distance of the lung root from the midline, in cm
_WAVELENGTHS = {"coarse": 4.0, "medium": 1.6, "fine": 0.8}  # of the textures, in cm
_TREES = 4
_TREE_MARGIN = 5.0  # how far the lung root may lie from the film's centre, in cm
_STEP = 0.1  # distance between two points of a vessel in cm


def cover(distance: Array, softness: float | Array) -> Array:
    """Turn a signed distance (positive inside) into coverage in [0, 1] with an edge of width `softness`."""
    return np.clip(distance / softness + 0.5, 0.0, 1.0)


class Canvas:
    """What depends on the image size alone, never on a data set's seed."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = height, width
        self.px = px = FILM_CM / min(height, width)  # side of one pixel in cm
        self.x: Array = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * px)[None]  # cm right of the centre
        self.y: Array = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * px)[:, None]  # cm below it
        margin = 2 * (round(_TREE_MARGIN / px) + 1)
        rng = np.random.default_rng(20230521)
        self._trees = [_vessel_tree(rng, height + margin, width + margin, px) for _ in range(_TREES)]
        self._textures = {
            name: _texture(rng, height + height // 2, width + width // 2, max(wavelength / px, 2.2))
            for name, wavelength in _WAVELENGTHS.items()
        }
        for array in (self.x, self.y, *self._trees, *self._textures.values()):
            array.setflags(write=False)  # shared by every data set of this size

    def edge(self, softness: float) -> float:
        """Width of an edge in cm: never sharper than a pixel."""
        return max(softness, self.px)

    def texture(self, scale: str, u: float, v: float) -> Array:
        """Noise (H, W) of unit variance, "coarse", "medium" or "fine", at the place (u, v) in [0, 1) x [0, 1)."""
        tile = self._textures[scale]
        H, W = self.shape
        top, left = int(u * (tile.shape[0] - H + 1)), int(v * (tile.shape[1] - W + 1))
        return tile[top : top + H, left : left + W]

    def vessels(self, tree: int, x: float, y: float) -> Array:
        """Attenuation (H, W) of a vessel tree with the midpoint between the lung roots at (x, y)."""
        (H, W), drawn = self.shape, self._trees[tree % _TREES]
        top = (drawn.shape[0] - H) // 2 - round(float(np.clip(y, -_TREE_MARGIN, _TREE_MARGIN)) / self.px)
        left = (drawn.shape[1] - W) // 2 - round(float(np.clip(x, -_TREE_MARGIN, _TREE_MARGIN)) / self.px)
        return drawn[top : top + H, left : left + W]


get_canvas = lru_cache(maxsize=4)(Canvas)


def _texture(rng: np.random.Generator, height: int, width: int, wavelength: float) -> Array:
    """Gaussian noise (height, width) around one wavelength in pixels."""
    noise = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1e-6
    noise *= np.exp(-((np.log2(frequency * wavelength) / 0.6) ** 2))
    field = np.fft.irfft2(noise, s=(height, width))
    return (field / field.std()).astype(np.float32)


def _vessel_tree(rng: np.random.Generator, height: int, width: int, px: float) -> Array:
    """Attenuation (height, width) of branching vessels that thin out away from two lung roots at the centre."""
    x, y, radius = np.concatenate([_branches(rng, side) for side in (-1, 1)], axis=1)
    columns, rows = np.round(x / px + width / 2).astype(int), np.round(y / px + height / 2).astype(int)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cells = rows * width + columns
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    total = np.zeros((height, width // 2 + 1), dtype=np.complex128)
    for low, high in pairwise([0.0, 0.07, 0.11, 0.16, 0.24, np.inf]):
        chosen = inside & (radius >= low) & (radius < high)
        if not chosen.any():
            continue
        typical = float(radius[chosen].mean())
        sigma = max(typical / px, 0.55)
        # A line of points blurred by sigma peaks at (points per pixel) / (sqrt(2 pi) sigma) times their weight; vessels
        # thinner than a pixel keep their mass, hence the ratio of true to drawn width.
        weight = 0.9 * typical * (typical / (sigma * px)) * np.sqrt(2 * np.pi) * sigma * _STEP / px
        points = np.bincount(cells[chosen], minlength=height * width).reshape(height, width) * weight
        total += np.fft.rfft2(points) * np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    # Where branches cross, the sum of their shadows is limited as in a solid hilum.
    return (0.3 * np.tanh(np.fft.irfft2(total, s=(height, width)) / 0.3)).astype(np.float32)


def _branches(rng: np.random.Generator, side: int) -> np.ndarray:
    """Points (x, y, radius) of all vessels of one lung, from stems at the root to two generations of branches."""
    stems = [(_HILUM_X - 0.8, 0.0, angle, 0.3, 9.5) for angle in np.linspace(-1.35, 1.45, 9) + rng.normal(0, 0.1, 9)]
    points = []
    for generation in range(3):
        children = []
        for x0, y0, heading, radius, length in stems:
            steps = int(length * rng.uniform(0.8, 1.2) / _STEP)
            angles = heading + np.cumsum(rng.normal(0, 0.05, steps))
            x, y = x0 + np.cumsum(np.cos(angles)) * _STEP, y0 + np.cumsum(np.sin(angles)) * _STEP
            radii = np.linspace(radius, 0.35 * radius, steps)
            points.append(np.stack([side * x, y, radii]))
            for at in rng.integers(steps // 5, steps, 4 - generation):
                turn = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
                children.append((x[at], y[at], angles[at] + turn, 0.8 * radii[at], 0.55 * length))
        stems = children
    return np.concatenate(points, axis=1)
