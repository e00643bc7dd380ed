"""Fourteen planted findings: each adds attenuation to a film inside a region that is returned as its mask.

A finding depends on the patient's normal anatomy and on its own generator alone, never on other findings; outside its
mask the film stays exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from causalcxr.data.synthetic.anatomy import Film
from causalcxr.data.synthetic.canvas import Array, cover

DENSEST = 1.05  # attenuation: several findings together make no lung denser than the abdomen
_VISIBLE = 0.03


class Finding(NamedTuple):
    """What a finding adds to a film."""

    density: Array  # attenuation to be added, (H, W)
    mask: np.ndarray  # where the finding is, bool, (H, W)


def _finding(density: Array, region: np.ndarray) -> Finding:
    """Complete a region by all that is visible around it, and cut off the rest: less than the noise of a film."""
    mask = np.abs(density) > _VISIBLE
    mask |= region
    density *= mask
    return Finding(density, mask)


def _draw(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _side(rng: np.random.Generator) -> int:
    return int(rng.integers(2)) * 2 - 1


def _blob(film: Film, place: tuple[float, float], radii: tuple[float, float], lean: float = 0.0) -> Array:
    """One at the centre of an ellipse, zero at its border, negative outside, (H, W); `place` is (dx, y)."""
    right, down = film.dx - place[0], film.y - place[1]
    return 1.0 - ((right + lean * down) * (1.0 / radii[0])) ** 2 - (down * (1.0 / radii[1])) ** 2


def atelectasis(film: Film, rng: np.random.Generator) -> Finding:
    """Collapsed lower lobe: a wedge from the hilum to the base, or a plate above it; the diaphragm is pulled up."""
    side, anatomy = _side(rng), film.anatomy
    rise = _draw(rng, 0.5, 2.4)
    lateral = (film.canvas.x - anatomy.x) * side
    taper = np.clip(lateral * (1 / 3.0), 0.0, 1.0) * np.clip((1.0 - lateral * (1.0 / anatomy.width)) * 3.0, 0.0, 1.0)
    base = film.base - rise * taper  # the midline and the costophrenic angle stay
    pulled = film.change(lung=film.cover_by_lungs(base), abdomen=film.cover_by_abdomen(base))
    top = anatomy.dome[(side + 1) // 2] - rise
    if rng.random() < 0.5:
        apex = top - _draw(rng, 4.5, 6.5)
        spread = (film.y - apex) * _draw(rng, 0.55, 0.75)
        middle, _ = film.locate(side, 0.85, 0.3)
        wedge = cover(np.minimum(spread - np.abs(film.dx - middle), film.y - apex), 0.8)
    else:
        height, tilt = top - _draw(rng, 1.6, 3.2), _draw(rng, -0.25, 0.25)
        thick, far = _draw(rng, 0.4, 0.65), anatomy.width - _draw(rng, 1.0, 3.5)
        across = thick - np.abs(film.y - height - tilt * (film.ax - 6.0))
        wedge = cover(np.minimum(across, far - film.ax), film.edge(0.5))
    wedge *= film.air * film.half(side)
    density = pulled + _draw(rng, 0.12, 0.4) * wedge
    return _finding(density, wedge > 0.4)


def cardiomegaly(film: Film, rng: np.random.Generator) -> Finding:
    """A heart wider than half the thorax; the mask is the whole heart."""
    grown = film.cover_by_heart(grow=_draw(rng, 1.15, 1.7))
    heart = (grown > 0.5) & (film.abdomen < 0.5) & (film.y > max(film.anatomy.dome) - 9.5)
    return _finding(film.change(centre=grown), heart)


def effusion(film: Film, rng: np.random.Generator) -> Finding:
    """Fluid at the base of one lung: blunted costophrenic angle, its upper border rising to the wall (meniscus)."""
    side, anatomy = _side(rng), film.anatomy
    depth = _draw(rng, 3.0, 10.0)
    angle = anatomy.dome[(side + 1) // 2] + anatomy.drop
    a = np.minimum(film.ax * (1.0 / anatomy.width), 1.0)
    a *= a
    fluid = cover(film.y - angle + depth * (0.25 + 0.75 * a), film.edge(0.7))
    fluid *= film.air * film.half(side)
    return _finding(_draw(rng, 0.3, 0.75) * fluid, fluid > 0.5)


def infiltration(film: Film, rng: np.random.Generator) -> Finding:
    """Ill-defined streaks and mottles in the lower half of one lung or of both."""
    first, region = _side(rng), np.zeros(film.canvas.shape, dtype=np.float32)
    for side in (first, -first)[: 1 + int(rng.random() < 0.4)]:
        place = film.locate(side, _draw(rng, 0.45, 0.85), _draw(rng, 0.25, 0.6))
        blob = _blob(film, place, (_draw(rng, 2.8, 4.2), _draw(rng, 3.0, 4.5)))
        region = np.maximum(region, cover(blob - 0.3, 0.6) * film.half(side))
    region *= film.air
    streaks = np.clip(0.6 + (0.25 * film.texture("fine", rng) + 0.4 * film.texture("medium", rng)), 0.0, 1.6)
    return _finding(_draw(rng, 0.1, 0.3) * region * streaks, region > 0.3)


def mass(film: Film, rng: np.random.Generator) -> Finding:
    """A lobulated disc of more than 3 cm."""
    side, radius = _side(rng), _draw(rng, 1.7, 3.2)
    place = film.locate(side, _draw(rng, 0.2, 0.8), _draw(rng, 0.3, 0.7))
    disc = _blob(film, place, (radius, radius * _draw(rng, 0.85, 1.15)), _draw(rng, -0.3, 0.3))
    near = np.clip(1.0 + disc, 0.0, 1.0)  # the lobulation must not start islands far away
    body = cover(disc + 0.12 * film.texture("coarse", rng) * near, film.edge(0.5) * 2 / radius) * film.lung
    return _finding(_draw(rng, 0.25, 0.5) * body, body > 0.4)


def nodule(film: Film, rng: np.random.Generator) -> Finding:
    """A round, well-defined disc of less than 3 cm."""
    side, radius = _side(rng), _draw(rng, 0.75, 1.35)
    place = film.locate(side, _draw(rng, 0.12, 0.9), _draw(rng, 0.2, 0.85))
    disc = cover(_blob(film, place, (radius, radius)), film.edge(0.3) * 2 / radius) * film.lung
    return _finding(_draw(rng, 0.3, 0.5) * disc, disc > 0.4)


def pneumonia(film: Film, rng: np.random.Generator) -> Finding:
    """Several fluffy foci that run together in one zone of a lung."""
    side, height = _side(rng), _draw(rng, 0.35, 0.85)
    region = np.zeros(film.canvas.shape, dtype=np.float32)
    for _ in range(3):
        place = film.locate(side, height + _draw(rng, -0.12, 0.12), _draw(rng, 0.15, 0.75))
        radius = _draw(rng, 1.6, 2.6)
        region = np.maximum(region, _blob(film, place, (radius, radius * _draw(rng, 0.8, 1.2))))
    wobble = 0.22 * film.texture("coarse", rng) * np.minimum(region * 2.0, 1.0)
    fluff = cover(region + wobble - 0.35, 0.8) * film.air * film.half(side) * (region > 0)
    return _finding(_draw(rng, 0.16, 0.44) * fluff, fluff > 0.3)


def pneumothorax(film: Film, rng: np.random.Generator) -> Finding:
    """Air around a collapsed apex: a dark rim without vessels, bounded by the thin line of the visceral pleura."""
    side, anatomy = _side(rng), film.anatomy
    top, reach = _draw(rng, 1.2, 4.5), _draw(rng, 8.0, 17.0)
    width = top * np.clip(1.0 - (film.y - anatomy.apex) * (1.0 / reach), 0.0, 1.0) ** 0.7
    # The apex itself is free as well: the pleura lies below it by as much as it lies beside the wall.
    beside, above = np.maximum(film.outer - film.ax, 0.01), np.maximum(film.y - anatomy.apex, 0.01) * 1.3
    inward = beside * above / np.sqrt(beside * beside + above * above)
    lung = film.lung * film.half(side)
    rim = cover(width - inward, film.edge(0.3)) * (width > 0.3) * lung
    pleura = cover(0.22 - np.abs(inward - width - 0.1), film.edge(0.25)) * (width > 0.3) * lung
    density = _draw(rng, 0.08, 0.22) * pleura - rim * film.markings - _draw(rng, 0.03, 0.13) * rim
    return _finding(density, (rim > 0.5) | (pleura > 0.5))


def consolidation(film: Film, rng: np.random.Generator) -> Finding:
    """A lobe filled with fluid: dense, even, cut off by a fissure, with dark air bronchograms."""
    side = _side(rng)
    upper = rng.random() < 0.5
    place = film.locate(side, _draw(rng, 0.3, 0.45) if upper else _draw(rng, 0.65, 0.8), 0.5)
    fissure = place[1] + _draw(rng, -0.2, 0.2) * (np.abs(film.dx) - abs(place[0]))
    beside = (fissure - film.y) if upper else (film.y - fissure)
    lobe = _blob(film, place, (_draw(rng, 5.0, 6.5), _draw(rng, 6.0, 7.5)))
    filled = np.minimum(cover(lobe - 0.25, 0.5), cover(beside, film.edge(0.4)))
    filled *= film.air * film.half(side)
    density = filled * (_draw(rng, 0.2, 0.52) - 0.6 * film.markings)
    return _finding(density, filled > 0.4)


def edema(film: Film, rng: np.random.Generator) -> Finding:
    """Bat-wing haze around both hila, and short horizontal septal lines at the lateral bases."""
    centre, radii = (5.6, -1.0 + _draw(rng, -0.5, 1.0)), (_draw(rng, 3.6, 5.0), _draw(rng, 4.5, 6.0))
    wing = 1.0 - ((film.ax - centre[0]) * (1.0 / radii[0])) ** 2
    wing = wing - ((film.y - centre[1]) * (1.0 / radii[1])) ** 2
    haze = cover(wing - 0.3, 0.7) * film.air
    mottle = 0.85 + 0.15 * np.clip(film.texture("medium", rng), -2.0, 2.0)
    low = min(film.anatomy.dome)
    strip = np.minimum(1.4 - np.abs(film.outer - film.ax - 1.4), 2.6 - np.abs(film.y - low + 1.0))
    lines = cover(strip, 0.4) * film.air
    strength = _draw(rng, 0.1, 0.34)
    kerley = lines * cover(np.cos(film.y * (2 * np.pi / 1.1)) - 0.3, 1.0)
    return _finding(strength * (haze * mottle + 0.4 * kerley), (haze > 0.3) | (lines > 0.5))


def emphysema(film: Film, rng: np.random.Generator) -> Finding:
    """Overinflated lungs: more lucent, fewer vessels, a low and flat diaphragm."""
    fall = _draw(rng, 0.6, 2.4)
    base = film.diaphragm(down=fall, flatten=0.9 * fall)
    lung = film.cover_by_lungs(base)
    density = film.change(lung=lung, abdomen=film.cover_by_abdomen(base))
    air = lung * (1.0 - film.centre)
    density -= _draw(rng, 0.03, 0.1) * air + (0.5 * film.markings) * (1.0 - film.centre)
    return _finding(density, (air > 0.5) | (film.lung > 0.5))


def fibrosis(film: Film, rng: np.random.Generator) -> Finding:
    """A net of fine lines at the base and the periphery of both lungs."""
    top = film.anatomy.apex + _draw(rng, 9.0, 13.0)
    inside = np.minimum(film.y - top + 0.5 * film.ax - 3.0, film.ax - _draw(rng, 4.0, 6.0))
    region = cover(inside, 1.5) * film.air
    net = np.maximum(1.0 - np.abs(film.texture("fine", rng)) * 1.3, 0.0)
    return _finding(_draw(rng, 0.07, 0.3) * region * net, region > 0.4)


def pleural_thickening(film: Film, rng: np.random.Generator) -> Finding:
    """A dense band along the wall of one lung, with an uneven inner border."""
    side, anatomy = _side(rng), film.anatomy
    thick, phase = _draw(rng, 0.5, 1.4), _draw(rng, 0.0, 6.3)
    centre, length = anatomy.apex + _draw(rng, 7.0, 13.0), _draw(rng, 4.0, 6.5)
    taper = np.sqrt(np.clip(1.0 - ((film.y - centre) * (1.0 / length)) ** 2, 0.0, 1.0))
    inner = thick * taper * (1.0 + 0.25 * np.sin(film.y * 1.7 + phase))
    band = cover(film.ax - film.outer + inner, film.edge(0.4)) * (taper > 0.1)
    band *= film.lung * film.half(side)
    return _finding(_draw(rng, 0.15, 0.45) * band, band > 0.4)


def hernia(film: Film, rng: np.random.Generator) -> Finding:
    """Stomach behind the heart: a thin-walled disc with gas above a level and fluid below."""
    radius = _draw(rng, 2.3, 3.5)
    place = (_draw(rng, -0.5, 2.2), max(film.anatomy.dome) - radius - _draw(rng, -0.6, 0.8))
    right, down = film.dx - place[0], film.y - place[1]
    distance = radius - np.sqrt(right * right + down * down)
    edge = film.edge(0.35)
    disc = cover(distance, edge)
    wall = disc - cover(distance - 0.45, edge)
    gas = (disc - wall) * cover(_draw(rng, 0.2, 0.5) * radius - down, edge)
    return _finding(_draw(rng, 0.1, 0.3) * wall - _draw(rng, 0.2, 0.6) * gas + 0.08 * (disc - wall - gas), disc > 0.4)


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
