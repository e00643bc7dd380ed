"""Schematic anatomy of a frontal chest radiograph, drawn as a sum of attenuations. Coordinates are in cm.

A film is an attenuation map, which `develop` turns into grey values. Everything drawn, including findings, adds to the
attenuation. A finding therefore changes the image only where its own attenuation is nonzero.
"""

from __future__ import annotations

import numpy as np

from causalcxr.data.synthetic.canvas import Array, Canvas, cover

_AIR = 0.52  # attenuation removed by the air in a lung
_HEART = 0.25  # attenuation that heart and great vessels add to the chest wall
_ABDOMEN = 0.67  # attenuation that the abdomen adds, as a fraction of the chest wall's


class Film:
    """Geometry, in cm from the patient's origin, and attenuation of one patient's normal radiograph.

    `patient` determines the anatomy. `pose` determines the position and the depth of inspiration. Generators in the
    same state give the same patient in either view.
    """

    def __init__(
        self,
        canvas: Canvas,
        patient: np.random.Generator,
        pose: np.random.Generator,
        *,
        ap: bool,
        female: bool,
        age: float,
    ) -> None:
        u: list[float] = patient.uniform(-1.0, 1.0, 12).tolist()
        v: list[float] = pose.uniform(-1.0, 1.0, 3).tolist()
        self.canvas, self.edge = canvas, canvas.edge
        x, y = 0.9 * v[1], 0.8 * v[2]
        self.dx: Array = canvas.x - x  # distance from the midline, negative on the image's left, (1, W)
        self.ax: Array = np.abs(self.dx)
        self.y: Array = canvas.y - y  # distance below the origin, (H, 1)
        self.width = (12.4 if female else 13.2) + 0.8 * u[0]  # half width of the thorax
        self.apex = -14.2 + 0.5 * u[3]  # top of the lungs
        dome = 4.6 + 1.0 * u[1] + 0.5 * v[0] - (1.9 if ap else 0.0)  # shallower breath when supine or sitting
        # Top of the diaphragm on the left and right of the image, i.e. the patient's right and left.
        self.dome = dome - 0.4, dome + 0.6 + 0.4 * u[4]
        self.drop = 3.6 + 0.5 * u[5]  # from the dome to the costophrenic angle
        heart = (1.0 + 0.09 * u[2]) * self.width * (1.18 if ap else 1.0)  # further from the detector in AP
        self._atrium = heart * 0.145 * (1 + 0.15 * u[6])  # how far the heart extends to the image's left ...
        self._ventricle = heart * 0.40 * (1 + 0.06 * u[7])  # ... and right
        self._knob = 0.9 + 0.012 * age + 0.2 * u[8]  # size of the aortic knob

        # Lateral and medial lung borders per row, before the heart is drawn, as distances `ax`, (H, 1).
        self.outer, self.inner = self._lung_borders(self.y)
        self.base = self.diaphragm()
        self.lung, self.abdomen = self.divide(self.base)  # coverage, including the lung behind the heart
        self.centre = self.cover_by_heart()  # coverage by heart and mediastinum
        self.air = self.lung * (1.0 - self.centre)  # coverage by lung not hidden by the heart
        grain = canvas.texture("coarse", (u[9] + 1) / 2, (u[10] + 1) / 2)
        self._wall = self._chest_wall(grain, breast=0.1 + 0.05 * u[11] if female else 0.0)
        self.organs = self.attenuate(self.lung, self.centre, self.abdomen)
        self.markings = canvas.vessels(x, y - 1.8) * self.lung * (1.0 - 0.6 * self.centre)  # attenuation of vessels
        bones = self._bones(spacing=2.55 + 0.15 * u[0], phase=u[9], clavicle=-11.6 + 0.6 * u[8] - (0.7 if ap else 0.0))
        self.density = self._wall + self.organs + self.markings + bones  # total attenuation, (H, W)

    def locate(self, side: int, height: float, depth: float) -> tuple[float, float]:
        """Return a point (dx, y) in the visible lung on one side of the image (-1 left, 1 right).

        `height` runs from 0 at the apex to 1 at the dome of the diaphragm, `depth` from 0 at the mediastinum to 1 at
        the chest wall.
        """
        y = self.apex + height * (self.dome[(side + 1) // 2] - self.apex)
        row = np.array([[y]], dtype=np.float32)
        outer, inner, heart = (
            float(border[0, 0]) for border in (*self._lung_borders(row), self._heart_borders(row)[(side + 1) // 2])
        )
        near = max(inner, heart)
        return side * (near + depth * (outer - near)), y

    def half(self, side: int) -> np.ndarray:
        """Return a mask (1, W) of one side (-1 left, 1 right) of the midline."""
        return self.dx * side > 0

    def diaphragm(self, down: float = 0.0) -> Array:
        """Return the `y` of the diaphragm (1, W), lowered by `down` cm and flattened accordingly."""
        lateral = np.clip((self.ax / self.width - 0.45) / 0.55, 0.0, 1.0)
        left, right = self.dome
        return left + down + cover(self.dx, 2.0) * (right - left) + lateral**2 * (self.drop - 0.9 * down)

    def divide(self, base: Array) -> tuple[Array, Array]:
        """Return the coverage (H, W) by the lungs above a diaphragm and by the abdomen below it.

        The abdomen fades in gradually where only chest wall lies above it.
        """
        within = np.minimum(self.outer - self.ax, self.ax - self.inner)
        beyond = np.clip(self.ax - (self.width - 0.3), 0.0, 1.0)
        lung = cover(np.minimum(within, base - self.y), self.edge(0.45))
        return lung, cover(self.y - base, self.edge(0.45) + 7.0 * beyond)

    def cover_by_heart(self, grow: float = 1.0) -> Array:
        """Return the coverage (H, W) by heart and mediastinum, with the heart scaled by `grow`."""
        right, left = self._heart_borders(self.y, grow)
        return cover(np.minimum(left - self.dx, right + self.dx), self.edge(0.5))

    def attenuate(self, lung: Array, centre: Array, abdomen: Array) -> Array:
        """Return the attenuation (H, W) that lungs, heart and abdomen add to the chest wall, given their coverage."""
        return (_HEART * (1.0 - abdomen)) * centre + (_ABDOMEN * self._wall) * abdomen - _AIR * lung * (1.0 - centre)

    def _chest_wall(self, grain: Array, breast: float) -> Array:
        """Return the attenuation (H, W) of the soft tissue of neck, shoulders, chest and breasts."""
        shoulder, waist = 0.5 + 0.5 * np.tanh((self.y + 15.0) / 1.4), 0.5 + 0.5 * np.tanh((self.y + 1.0) / 3.2)
        u = (self.ax / (6.0 + 15.0 * shoulder + (self.width - 18.7) * waist)) ** 2
        wall = (0.80 - 0.22 * u + 0.025 * grain) * cover(1.0 - u * u, 0.6)
        if breast:
            disc = ((self.ax - 7.6) / 5.0) ** 2 + ((self.y - 3.2) / 5.2) ** 2
            wall += breast * cover(1.0 - disc, 0.7)
        return wall

    def _bones(self, spacing: float, phase: float, clavicle: float) -> Array:
        """Return the attenuation (H, W) of ribs, spine and clavicles, minus that removed by the windpipe."""
        y, ax, turn = self.y, self.ax, 2 * np.pi / spacing
        height, curve = turn * y, turn * (0.034 * ax + 0.12) * ax
        back = np.cos((height + np.pi * phase) - curve)  # posterior ribs slope gently down to the side
        front = np.cos((height - phase) + 0.8 * curve)
        cage = cover(self.outer + 0.7 - ax, self.edge(0.5)) * (1.0 - 0.6 * self.abdomen)
        bones = cage * (0.10 * cover(back - 0.15, 0.9) + 0.06 * cover(front - 0.45, 0.8))
        bones += cover(1.8 - ax, self.edge(0.6)) * (0.24 + 0.05 * np.cos(y * (2 * np.pi / 2.5) + phase))
        middle = clavicle - 0.17 * (ax - 2.0) - 0.45 * np.sin(0.42 * ax)
        shaft = cover(0.6 - np.abs(y - middle), self.edge(0.5)) * cover(ax - 1.6, 0.8)
        windpipe = cover(0.85 - ax, self.edge(0.5)) * cover(-4.5 - y, 1.5)
        return bones + 0.13 * shaft - 0.2 * windpipe

    def _lung_borders(self, y: Array) -> tuple[Array, Array]:
        """Return the lateral and medial lung borders (H, 1), as distances from the midline."""
        p = np.clip((y - self.apex) / (6.0 - self.apex), 0.0, 1.0)
        outer = self.width * (0.36 + 0.64 * np.sqrt(1.0 - (1.0 - p) ** 4))
        inner = 4.6 - 2.6 * np.sqrt(1.0 - np.clip(1.0 - p / 0.22, 0.0, 1.0) ** 2)
        return np.where(y < self.apex, 0.0, outer), inner

    def _heart_borders(self, y: Array, grow: float = 1.0) -> tuple[Array, Array]:
        """Return the borders (H, 1) of heart and mediastinum, image left then right, as distances from the midline."""
        low = max(self.dome)
        right = 2.2 + grow * self._atrium * np.exp(-(np.abs((y - low + 3.5) / 4.2) ** 3))
        round_ = np.exp(-(np.abs((y - low + 1.2) / 5.5) ** 1.9))
        left = 1.9 + grow * self._ventricle * np.maximum(1.15 * round_ - 0.15, 0.0)  # ends where the vessels begin
        aorta, artery = np.exp(-(((y + 6.6) / 1.5) ** 2)), np.exp(-(((y + 2.8) / 1.6) ** 2))
        return right, left + self._knob * aorta + 0.8 * artery


def develop(density: Array, rng: np.random.Generator, *, ap: bool) -> Array:
    """Turn attenuation into grey values in [0, 1] by Beer's law, a contrast curve and detector noise.

    Bedside films (AP) are less exposed: they are brighter and noisier, with less contrast.
    """
    u: list[float] = rng.uniform(-1.0, 1.0, 3).tolist()
    if ap:
        gain, contrast, noise = 1.8 + 0.3 * u[0], 0.05 + 0.2 * u[1], 0.016 + 0.005 * u[2]
    else:
        gain, contrast, noise = 1.5 + 0.25 * u[0], 0.25 + 0.2 * u[1], 0.012 + 0.004 * u[2]
    transmitted = np.exp(density * -gain)
    grey = 1.0 - transmitted  # white where little is transmitted
    grey = grey - contrast * (transmitted * grey)  # darkens the midtones
    return np.clip(grey + rng.standard_normal(density.shape, dtype=np.float32) * noise, 0.0, 1.0)
