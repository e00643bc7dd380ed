"""Coordinate grids and textures that all synthetic radiographs of one image size share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 throughout

FILM_CM = 36.0  # the shorter side of every film
_HILUM_X = 3.4  # distance of the lung root from the midline, in cm
_WAVELENGTHS = {"coarse": 4.0, "medium": 1.6, "fine": 0.8}  # of the textures, in cm
_TREES = 4
_TREE_MARGIN = 5.0  # how far the lung root may lie from the film's centre, in cm


def cover(distance: Array, softness: float | Array) -> Array:
    """Turn a signed distance (positive inside) into coverage in [0, 1] with an edge of width ``softness``."""
    edge = distance / softness
    edge += 0.5
    return np.clip(edge, 0.0, 1.0, out=edge)


@dataclass(frozen=True, eq=False)
class Canvas:
    """What depends on the image size alone."""

    x: Array  # distance to the right of the film's centre in cm, (1, W)
    y: Array  # distance below the film's centre in cm, (H, 1)
    px: float  # side of one pixel in cm
    textures: dict[str, Array]  # periodic band-limited noise of unit variance, larger than the film
    trees: Array  # attenuation of pulmonary vessels around the two lung roots, larger than the film

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y.shape[0], self.x.shape[1]

    def edge(self, softness: float) -> float:
        """Width of an edge in cm: never sharper than a pixel."""
        return max(softness, self.px)

    def texture(self, scale: Literal["coarse", "medium", "fine"], u: float, v: float) -> Array:
        """The crop (H, W) of the texture of one scale at the place (u, v) in [0, 1) x [0, 1)."""
        tile = self.textures[scale]
        H, W = self.shape
        top, left = int(u * (tile.shape[0] - H + 1)), int(v * (tile.shape[1] - W + 1))
        return tile[top : top + H, left : left + W]

    def vessels(self, tree: int, x: float, y: float) -> Array:
        """Vessel tree number ``tree`` (H, W) with the midpoint between the lung roots at (x, y)."""
        (H, W), canvas = self.shape, self.trees[tree % _TREES]
        top = (canvas.shape[0] - H) // 2 - round(float(np.clip(y, -_TREE_MARGIN, _TREE_MARGIN)) / self.px)
        left = (canvas.shape[1] - W) // 2 - round(float(np.clip(x, -_TREE_MARGIN, _TREE_MARGIN)) / self.px)
        return canvas[top : top + H, left : left + W]


@lru_cache(maxsize=4)
def get_canvas(height: int, width: int) -> Canvas:
    """Grids and textures for one image size; they never depend on a data set's seed."""
    px = FILM_CM / min(height, width)
    x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * px)[None]
    y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * px)[:, None]
    margin = 2 * (round(_TREE_MARGIN / px) + 1)
    rng = np.random.default_rng(20230521)
    trees = np.stack([_vessel_tree(rng, height + margin, width + margin, px) for _ in range(_TREES)])
    textures = {
        name: _texture(rng, height + height // 2, width + width // 2, max(wavelength / px, 2.2))
        for name, wavelength in _WAVELENGTHS.items()
    }
    for array in (x, y, trees, *textures.values()):
        array.setflags(write=False)  # shared by every data set of this size
    return Canvas(x, y, px, textures, trees)


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
    parts = [_branches(rng, side) for side in (-1, 1)]
    x, y, radius = (np.concatenate([part[axis] for part in parts]) for axis in range(3))
    columns, rows = np.round(x / px + width / 2).astype(int), np.round(y / px + height / 2).astype(int)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cells = rows * width + columns
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    total = np.zeros((height, width // 2 + 1), dtype=np.complex128)
    edges = [0.0, 0.07, 0.11, 0.16, 0.24, np.inf]
    for low, high in pairwise(edges):
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


_STEP = 0.1  # distance between two points of a vessel in cm


def _branches(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
            points.append((x, y, radii))
            for at in rng.integers(steps // 5, steps, 4 - generation):
                turn = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
                children.append((x[at], y[at], angles[at] + turn, 0.8 * radii[at], 0.55 * length))
        stems = children
    x, y, radii = (np.concatenate(parts) for parts in zip(*points, strict=True))
    return side * x, y, radii
