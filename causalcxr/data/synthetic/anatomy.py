"""Schematic anatomy of a frontal chest radiograph, drawn as a sum of attenuations in centimetres.

A film is a map of attenuation; `develop` turns it into grey values by an exposure curve. Everything that is drawn,
findings included, adds to the attenuation, so that a finding alters the image only where its own attenuation is not
zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from causalcxr.data.synthetic.canvas import Array, Canvas, cover

_AIR = 0.52  # attenuation that the air of a lung takes away
_HEART = 0.25  # attenuation of heart and great vessels beyond that of the chest wall
_ABDOMEN = 0.5


class Anatomy(NamedTuple):
    """One patient, in cm: what differs from person to person."""

    x: float  # midline
    y: float  # shift of the whole chest
    lean: float  # shear of the midline
    twist: float  # rotation about the long axis: one lung looks wider
    apex: float  # top of the lungs
    dome: tuple[float, float]  # top of the diaphragm, image left and right (the patient's right and left)
    drop: float  # from the dome to the costophrenic angle
    width: float  # half width of the thorax
    atrium: float  # how far the heart reaches beyond the mediastinum, to the image's left ...
    ventricle: float  # ... and right
    knob: float  # aortic knob
    ribs: tuple[float, float, float]  # spacing, phase, slope
    clavicle: float
    breast: float  # attenuation of breast tissue
    stomach: float  # radius of the gastric bubble
    tree: int  # which vessel tree
    grain: tuple[float, float]  # where the texture of the soft tissue is cut out


def draw_anatomy(
    patient: np.random.Generator, pose: np.random.Generator, *, ap: bool, female: bool, age: float
) -> Anatomy:
    """Draw a patient as he or she stands before the detector; equal generators give the same patient in either view."""
    u: list[float] = patient.uniform(-1.0, 1.0, 14).tolist()
    v: list[float] = pose.uniform(-1.0, 1.0, 5).tolist()
    width = (12.4 if female else 13.2) + 0.8 * u[0]
    dome = 4.6 + 1.0 * u[1] + 0.5 * v[0] - (1.9 if ap else 0.0)  # supine or sitting, one breathes in less deeply
    heart = (1.0 + 0.09 * u[2]) * (1.18 if ap else 1.0)  # the heart lies further from the detector
    return Anatomy(
        x=0.9 * v[1],
        y=0.8 * v[2],
        lean=0.03 * v[3],
        twist=(0.06 if ap else 0.03) * v[4],
        apex=-14.2 + 0.5 * u[3],
        dome=(dome - 0.4, dome + 0.6 + 0.4 * u[4]),
        drop=3.6 + 0.5 * u[5],
        width=width,
        atrium=heart * width * 0.145 * (1 + 0.15 * u[6]),
        ventricle=heart * width * 0.40 * (1 + 0.06 * u[7]),
        knob=0.9 + 0.012 * age + 0.2 * u[8],
        ribs=(2.55 + 0.15 * u[0], u[9], 0.12 + 0.05 * u[3] - (0.05 if ap else 0.0)),
        clavicle=-11.6 + 0.6 * u[8] - (0.7 if ap else 0.0),
        breast=0.1 + 0.05 * u[10] if female else 0.0,
        stomach=max(0.0, 1.0 + 1.2 * u[5]),
        tree=int(8 * (u[11] + 1)),
        grain=((u[12] + 1) / 2, (u[13] + 1) / 2),
    )


class Film:
    """Geometry and attenuation of one patient's normal radiograph, in cm from the patient's origin."""

    def __init__(self, canvas: Canvas, anatomy: Anatomy) -> None:
        self.canvas, self.anatomy, self.edge = canvas, anatomy, canvas.edge
        self.y: Array = canvas.y - anatomy.y  # distance below the origin, (H, 1)
        # Signed distance from the midline, negative on the image's left, and distance corrected for rotation, (H, W).
        self.dx: Array = canvas.x - (anatomy.x + anatomy.lean * self.y)
        self.ax: Array = np.maximum(self.dx * (1.0 / (1 - anatomy.twist)), self.dx * (-1.0 / (1 + anatomy.twist)))
        # Lateral and medial border of the lungs per row before the heart is drawn, as `ax`, (H, 1).
        self.outer, self.inner = _lung_borders(self.y, anatomy)
        self.base = self.diaphragm()
        self.lung = self.cover_by_lungs(self.base)  # the part behind the heart included, (H, W)
        self.centre = self.cover_by_heart()  # and mediastinum
        self.abdomen = self.cover_by_abdomen(self.base)
        self.air = self.lung * (1.0 - self.centre)  # coverage by lung that the heart does not hide
        self.soft = self._chest_wall()
        self.markings = canvas.vessels(anatomy.tree, anatomy.x, anatomy.y - 1.8) * self.lung  # attenuation of vessels
        self.markings *= 1.0 - 0.6 * self.centre
        self.density = self.soft + self._organs(self.lung, self.centre, self.abdomen) + self.markings  # of everything
        self._add_bones()

    def locate(self, side: int, height: float, depth: float) -> tuple[float, float]:
        """A place (dx, y) in the visible lung of a side (-1 image left, 1 right).

        `height` runs from 0 at the apex to 1 at the dome of the diaphragm, `depth` from 0 at the mediastinum to 1 at
        the chest wall.
        """
        anatomy = self.anatomy
        y = anatomy.apex + height * (anatomy.dome[(side + 1) // 2] - anatomy.apex)
        row = np.array([[y]], dtype=np.float32)
        outer, inner = (float(border[0, 0]) for border in _lung_borders(row, anatomy))
        heart = float(_heart_borders(row, anatomy)[(side + 1) // 2][0, 0])
        near = max(inner, heart) * (1 - side * anatomy.twist)
        return side * (near + depth * (outer * (1 - side * anatomy.twist) - near)), y

    def half(self, side: int) -> np.ndarray:
        """The image half (H, W) on one side of the midline."""
        return self.dx * side > 0

    def texture(self, scale: str, rng: np.random.Generator) -> Array:
        """A random crop (H, W) of one of the canvas's textures."""
        return self.canvas.texture(scale, *rng.random(2))

    def diaphragm(self, down: float = 0.0, flatten: float = 0.0) -> Array:
        """Height of the diaphragm (1, W) as `y`, moved down; `flatten` lifts the angles."""
        anatomy = self.anatomy
        dx = self.canvas.x - anatomy.x
        a = np.minimum(np.abs(dx) * (1.0 / anatomy.width), 1.0) - 0.45
        bend = (np.maximum(a, 0.0) / 0.55) ** 2 * (anatomy.drop - flatten) + (np.minimum(a, 0.0) / 0.45) ** 2 * 0.8
        left, right = (top + down for top in anatomy.dome)
        return (left + cover(dx, 2.0) * (right - left) + bend + anatomy.lean * dx).astype(np.float32)

    def cover_by_lungs(self, base: Array) -> Array:
        """Coverage by both lungs (H, W) above a diaphragm."""
        within = np.minimum(self.outer - self.ax, self.ax - self.inner)
        return cover(np.minimum(within, base - self.y), self.edge(0.45))

    def cover_by_heart(self, grow: float = 1.0) -> Array:
        """Coverage by heart and mediastinum (H, W), the heart `grow` times as wide."""
        right, left = _heart_borders(self.y, self.anatomy, grow)
        return cover(np.minimum(left - self.dx, right + self.dx), self.edge(0.5))

    def cover_by_abdomen(self, base: Array) -> Array:
        """Coverage by what lies below a diaphragm (H, W); it fades in where only chest wall lies above it."""
        beyond = np.abs(self.canvas.x - self.anatomy.x) - (self.anatomy.width - 0.3)
        return cover(self.y - base, self.edge(0.45) + 7.0 * np.clip(beyond, 0.0, 1.0))

    def change(self, lung: Array | None = None, centre: Array | None = None, abdomen: Array | None = None) -> Array:
        """Attenuation (H, W) that other organs add to the normal film."""
        new = zip((lung, centre, abdomen), (self.lung, self.centre, self.abdomen), strict=True)
        changed = (normal if other is None else other for other, normal in new)
        return self._organs(*changed) - self._organs(self.lung, self.centre, self.abdomen)

    def _organs(self, lung: Array, centre: Array, abdomen: Array) -> Array:
        """Attenuation (H, W) that lungs, heart and abdomen add to that of the chest wall."""
        solid = (_HEART * centre) * (1.0 - abdomen) + (self.soft * (_ABDOMEN / 0.75)) * abdomen
        return solid - (_AIR * lung) * (1.0 - centre)

    def _chest_wall(self) -> Array:
        """Attenuation of skin, fat and muscle (H, W): neck, shoulders, chest, and breasts."""
        y, anatomy = self.y, self.anatomy
        shoulder = 1.0 / (1.0 + np.exp(np.clip(-(y + 15.0) / 0.7, -30, 30)))
        waist = 1.0 / (1.0 + np.exp(np.clip(-(y + 1.0) / 1.6, -30, 30)))
        half = 6.0 + 15.0 * shoulder + (anatomy.width + 2.3 - 21.0) * waist
        u = (self.ax * (1.0 / half)) ** 2
        soft = (0.80 - 0.22 * u + 0.025 * self.canvas.texture("coarse", *anatomy.grain)) * cover(1.0 - u * u, 0.6)
        if anatomy.breast > 0:
            disc = ((self.ax - 7.6) * (1 / 5.0)) ** 2 + ((y - 3.2) * (1 / 5.2)) ** 2
            soft += anatomy.breast * cover(1.0 - disc, 0.7)
        return soft

    def _add_bones(self) -> None:
        """Add ribs, spine, clavicles, windpipe and the gastric bubble to the density."""
        anatomy, y, ax = self.anatomy, self.y, self.ax
        spacing, phase, slope = anatomy.ribs
        turn = 2 * np.pi / spacing
        curve = (ax * (turn * 0.034) + turn * slope) * ax
        back = np.cos((turn * y + np.pi * phase) - curve)  # posterior ribs fall gently to the side
        front = np.cos((turn * y - phase) + curve * 0.8)
        cage = cover(self.outer + 0.7 - ax, self.edge(0.5)) * (1.0 - 0.6 * self.abdomen)
        self.density += cage * (0.10 * cover(back - 0.15, 0.9) + 0.06 * cover(front - 0.45, 0.8))
        spine = cover(1.8 - ax, self.edge(0.6)) * (0.24 + 0.05 * np.cos(y * (2 * np.pi / 2.5) + phase))
        windpipe = cover(0.85 - ax, self.edge(0.5)) * (0.2 * cover(-4.5 - y, 1.5))
        self.density += spine - windpipe
        rows = slice(*np.searchsorted(y[:, 0], [anatomy.clavicle - 4.0, anatomy.clavicle + 2.0]))
        middle = anatomy.clavicle - 0.17 * (ax[rows] - 2.0) - 0.45 * np.sin(0.42 * ax[rows])
        shaft = cover(0.6 - np.abs(y[rows] - middle), self.edge(0.5)) * cover(ax[rows] - 1.6, 0.8)
        self.density[rows] += 0.13 * shaft
        if anatomy.stomach > 0:
            distance = np.sqrt((self.dx - 5.2) ** 2 + (y - anatomy.dome[1] - 4.6) ** 2)
            self.density -= 0.35 * cover(anatomy.stomach - distance, self.edge(0.6))


def _lung_borders(y: Array, anatomy: Anatomy) -> tuple[Array, Array]:
    """Lateral and medial border of the lungs (H, 1), as distance from the midline."""
    p = np.clip((y - anatomy.apex) / (6.0 - anatomy.apex), 0.0, 1.0)
    outer = anatomy.width * (0.36 + 0.64 * np.sqrt(1.0 - (1.0 - p) ** 4))
    inner = 4.6 - 2.6 * np.sqrt(1.0 - np.clip(1.0 - p / 0.22, 0.0, 1.0) ** 2)
    return np.where(y < anatomy.apex, outer - 3.0, outer), inner


def _heart_borders(y: Array, anatomy: Anatomy, grow: float = 1.0) -> tuple[Array, Array]:
    """Left and right image border of heart and mediastinum (H, 1), as distance from the midline."""
    low = max(anatomy.dome)
    right = 2.2 + grow * anatomy.atrium * np.exp(-(np.abs((y - low + 3.5) / 4.2) ** 3))
    z = y - low + 1.2
    z = np.abs(np.where(z < 0, z / (5.0 + 0.7 * grow), z / 4.5)) ** 1.9
    reach = grow * anatomy.ventricle * np.maximum(1.15 * np.exp(-z) - 0.15, 0.0)  # ends where the vessels begin
    left = 1.9 + anatomy.knob * np.exp(-(((y + 6.6) / 1.5) ** 2)) + 0.8 * np.exp(-(((y + 2.8) / 1.6) ** 2)) + reach
    return right, left


def develop(density: Array, rng: np.random.Generator, *, ap: bool) -> Array:
    """Turn attenuation into grey values in [0, 1]: Beer's law, a contrast curve, and detector noise.

    Bedside films (AP) get less exposure and look whiter, flatter and noisier.
    """
    u: list[float] = rng.uniform(-1.0, 1.0, 3).tolist()
    if ap:
        gain, contrast, noise = 1.8 + 0.3 * u[0], 0.05 + 0.2 * u[1], 0.016 + 0.005 * u[2]
    else:
        gain, contrast, noise = 1.5 + 0.25 * u[0], 0.25 + 0.2 * u[1], 0.012 + 0.004 * u[2]
    transmitted = np.exp(density * -gain)
    grey = 1.0 - transmitted  # white means that little comes through
    grey = grey - contrast * (transmitted * grey)  # darkens the middle tones
    return np.clip(grey + rng.standard_normal(density.shape, dtype=np.float32) * noise, 0.0, 1.0)
