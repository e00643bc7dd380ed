"""Fourteen planted findings, each of which adds attenuation to a film inside the mask that it returns.

A finding depends only on the patient's normal anatomy and its own generator, never on other findings. The film is
unchanged outside its mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from causalcxr.data.synthetic.anatomy import Film
from causalcxr.data.synthetic.canvas import Array, cover

_VISIBLE = 0.03


class Finding(NamedTuple):
    """Attenuation and mask of a finding."""

    density: Array  # attenuation to add, (H, W)
    mask: np.ndarray  # where the finding is, bool, (H, W)


def _finding(density: Array, region: np.ndarray) -> Finding:
    """Extend a region to all visible attenuation, and zero the rest, which is below the noise of a film."""
    mask = region | (np.abs(density) > _VISIBLE)
    return Finding(density * mask, mask)


def _side(rng: np.random.Generator) -> int:
    return int(rng.integers(2)) * 2 - 1


def _blob(film: Film, place: tuple[float, float], radii: tuple[float, float]) -> Array:
    """Return a map (H, W) that is 1 at the centre (dx, y) of an ellipse, 0 at its border and negative outside."""
    return 1.0 - ((film.dx - place[0]) / radii[0]) ** 2 - ((film.y - place[1]) / radii[1]) ** 2


def atelectasis(film: Film, rng: np.random.Generator) -> Finding:
    """Collapsed lower lobe: a wedge from the hilum to the base, with the diaphragm pulled up."""
    side, rise = _side(rng), rng.uniform(0.5, 2.4)
    lateral = film.dx * side
    taper = np.clip(lateral / 3.0, 0.0, 1.0) * np.clip(3.0 - 3.0 * lateral / film.width, 0.0, 1.0)
    lung, abdomen = film.divide(film.base - rise * taper)  # fixed at the midline and the costophrenic angle
    pulled = film.attenuate(lung, film.centre, abdomen) - film.organs
    below = film.y - (film.dome[(side + 1) // 2] - rise - rng.uniform(4.5, 6.5))
    middle, _ = film.locate(side, 0.85, 0.3)
    wedge = cover(np.minimum(below * rng.uniform(0.55, 0.75) - np.abs(film.dx - middle), below), 0.8)
    wedge *= film.air * film.half(side)
    return _finding(pulled + rng.uniform(0.12, 0.4) * wedge, wedge > 0.4)


def cardiomegaly(film: Film, rng: np.random.Generator) -> Finding:
    """A heart wider than half the thorax; the mask is the whole heart."""
    grown = film.cover_by_heart(grow=rng.uniform(1.15, 1.7))
    heart = (grown > 0.5) & (film.abdomen < 0.5) & (film.y > max(film.dome) - 9.5)
    return _finding(film.attenuate(film.lung, grown, film.abdomen) - film.organs, heart)


def effusion(film: Film, rng: np.random.Generator) -> Finding:
    """Fluid at the base of one lung: a blunted costophrenic angle and a border rising to the wall (meniscus)."""
    side, depth = _side(rng), rng.uniform(3.0, 10.0)
    angle = film.dome[(side + 1) // 2] + film.drop
    rising = 0.25 + 0.75 * np.minimum(film.ax / film.width, 1.0) ** 2
    fluid = cover(film.y - angle + depth * rising, film.edge(0.7)) * film.air * film.half(side)
    return _finding(rng.uniform(0.3, 0.75) * fluid, fluid > 0.5)


def infiltration(film: Film, rng: np.random.Generator) -> Finding:
    """Ill-defined mottling in the lower half of one lung."""
    side = _side(rng)
    place = film.locate(side, rng.uniform(0.45, 0.85), rng.uniform(0.25, 0.6))
    blob = _blob(film, place, (rng.uniform(2.8, 4.2), rng.uniform(3.0, 4.5)))
    region = cover(blob - 0.3, 0.6) * film.air * film.half(side)
    mottles = np.clip(0.6 + 0.45 * film.canvas.texture("fine", *rng.random(2)), 0.0, 1.6)
    return _finding(rng.uniform(0.1, 0.3) * region * mottles, region > 0.3)


def mass(film: Film, rng: np.random.Generator) -> Finding:
    """An oval larger than 3 cm."""
    place = film.locate(_side(rng), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.7))
    radius = rng.uniform(1.7, 3.2)
    oval = _blob(film, place, (radius, radius * rng.uniform(0.8, 1.2)))
    body = cover(oval, film.edge(0.5) * 2 / radius) * film.lung
    return _finding(rng.uniform(0.25, 0.5) * body, body > 0.4)


def nodule(film: Film, rng: np.random.Generator) -> Finding:
    """A round, well-defined disc smaller than 3 cm."""
    place = film.locate(_side(rng), rng.uniform(0.12, 0.9), rng.uniform(0.2, 0.85))
    radius = rng.uniform(0.75, 1.35)
    disc = cover(_blob(film, place, (radius, radius)), film.edge(0.3) * 2 / radius) * film.lung
    return _finding(rng.uniform(0.3, 0.5) * disc, disc > 0.4)


def pneumonia(film: Film, rng: np.random.Generator) -> Finding:
    """Several fluffy foci that merge in one zone of a lung."""
    side, height = _side(rng), rng.uniform(0.35, 0.85)
    region = np.zeros(film.canvas.shape, dtype=np.float32)
    for _ in range(3):
        place = film.locate(side, height + rng.uniform(-0.12, 0.12), rng.uniform(0.15, 0.75))
        radius = rng.uniform(1.6, 2.6)
        region = np.maximum(region, _blob(film, place, (radius, radius)))
    wobble = 1.2 + 0.4 * film.canvas.texture("coarse", *rng.random(2))
    fluff = np.clip(region * wobble, 0.0, 1.0) * film.air * film.half(side)
    return _finding(rng.uniform(0.16, 0.44) * fluff, fluff > 0.3)


def pneumothorax(film: Film, rng: np.random.Generator) -> Finding:
    """Air around a collapsed apex: a dark rim without vessels, bounded by the thin line of the visceral pleura."""
    width = rng.uniform(1.2, 4.5) * np.clip(1.0 - (film.y - film.apex) / rng.uniform(8.0, 17.0), 0.0, 1.0)
    # The pleura is detached from the apex too, by about as much as from the wall.
    beside, above = np.maximum(film.outer - film.ax, 0.01), 1.3 * np.maximum(film.y - film.apex, 0.01)
    inward = beside * above / np.hypot(beside, above)
    lung = film.lung * film.half(_side(rng)) * (width > 0.3)
    rim = cover(width - inward, film.edge(0.3)) * lung
    pleura = cover(0.22 - np.abs(inward - width - 0.1), film.edge(0.25)) * lung
    density = rng.uniform(0.08, 0.22) * pleura - (film.markings + rng.uniform(0.03, 0.13)) * rim
    return _finding(density, (rim > 0.5) | (pleura > 0.5))


def consolidation(film: Film, rng: np.random.Generator) -> Finding:
    """A fluid-filled lobe: dense, homogeneous, bounded by a fissure, with dark air bronchograms."""
    side, upper = _side(rng), rng.random() < 0.5
    place = film.locate(side, rng.uniform(0.3, 0.45) if upper else rng.uniform(0.65, 0.8), 0.5)
    below = film.y - place[1]
    lobe = _blob(film, place, (rng.uniform(5.0, 6.5), rng.uniform(6.0, 7.5)))
    filled = np.minimum(cover(lobe - 0.25, 0.5), cover(-below if upper else below, film.edge(0.4)))
    filled *= film.air * film.half(side)
    return _finding(filled * (rng.uniform(0.2, 0.52) - 0.6 * film.markings), filled > 0.4)


def edema(film: Film, rng: np.random.Generator) -> Finding:
    """Bat-wing haze around both hila."""
    y, across, down = rng.uniform(-1.5, 0.0), rng.uniform(3.6, 5.0), rng.uniform(4.5, 6.0)
    wing = 1.0 - ((film.ax - 5.6) / across) ** 2 - ((film.y - y) / down) ** 2
    haze = cover(wing - 0.3, 0.7) * film.air
    return _finding(rng.uniform(0.1, 0.34) * haze, haze > 0.3)


def emphysema(film: Film, rng: np.random.Generator) -> Finding:
    """Hyperinflated lungs: more lucent, with fewer vessels and a low, flat diaphragm."""
    lung, abdomen = film.divide(film.diaphragm(down=rng.uniform(0.6, 2.4)))
    air = lung * (1.0 - film.centre)
    density = film.attenuate(lung, film.centre, abdomen) - film.organs
    density -= rng.uniform(0.03, 0.1) * air + 0.5 * film.markings * (1.0 - film.centre)
    return _finding(density, (air > 0.5) | (film.lung > 0.5))


def fibrosis(film: Film, rng: np.random.Generator) -> Finding:
    """A network of fine lines at the base and periphery of both lungs."""
    top = film.apex + rng.uniform(9.0, 13.0)
    inside = np.minimum(film.y - top + 0.5 * film.ax - 3.0, film.ax - rng.uniform(4.0, 6.0))
    region = cover(inside, 1.5) * film.air
    net = np.maximum(1.0 - 1.3 * np.abs(film.canvas.texture("fine", *rng.random(2))), 0.0)
    return _finding(rng.uniform(0.07, 0.3) * region * net, region > 0.4)


def pleural_thickening(film: Film, rng: np.random.Generator) -> Finding:
    """A dense band along the wall of one lung."""
    centre, length = film.apex + rng.uniform(7.0, 13.0), rng.uniform(4.0, 6.5)
    taper = np.sqrt(np.clip(1.0 - ((film.y - centre) / length) ** 2, 0.0, 1.0))
    thick = rng.uniform(0.5, 1.4) * taper
    band = cover(film.ax - film.outer + thick, film.edge(0.4)) * (taper > 0.1) * film.lung * film.half(_side(rng))
    return _finding(rng.uniform(0.15, 0.45) * band, band > 0.4)


def hernia(film: Film, rng: np.random.Generator) -> Finding:
    """Stomach behind the heart: a thin-walled disc with gas above a fluid level."""
    radius = rng.uniform(2.3, 3.5)
    right, down = film.dx - rng.uniform(-0.5, 2.2), film.y - (max(film.dome) - radius - rng.uniform(-0.6, 0.8))
    inward, edge = radius - np.sqrt(right * right + down * down), film.edge(0.35)
    disc, inside = cover(inward, edge), cover(inward - 0.45, edge)
    gas = inside * cover(rng.uniform(0.2, 0.5) * radius - down, edge)
    return _finding(0.15 * disc - rng.uniform(0.35, 0.75) * gas, disc > 0.4)


FINDINGS: dict[str, Callable[[Film, np.random.Generator], Finding]] = {
    "Atelectasis": atelectasis,
    "Cardiomegaly": cardiomegaly,
    "Effusion": effusion,
    "Infiltration": infiltration,
    "Mass": mass,
    "Nodule": nodule,
    "Pneumonia": pneumonia,
    "Pneumothorax": pneumothorax,
    "Consolidation": consolidation,
    "Edema": edema,
    "Emphysema": emphysema,
    "Fibrosis": fibrosis,
    "Pleural_Thickening": pleural_thickening,
    "Hernia": hernia,
}
