"""Random views of training films, drawn on the device for a whole batch."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

GROUPS = 4  # of a batch; the films of a group are reduced to the same size, and stored alike
QUALITY, GRAIN = (40, 95), 4.0


def stored(films: Tensor, quality: int) -> Tensor:
    """Return films (N, H, W) in bytes as they are after they were stored as JPEG."""
    after = []
    for film in films.cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=quality)
        after.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(after))


@dataclass(frozen=True)
class Views:
    """How far a view may be from its film.

    Args:
        rotate: Degrees, at most.
        scale: Larger or smaller, at most, as a part of 1.
        shift: Part of the side, at most.
        contrast: Stronger or weaker, and brighter or darker, at most.
        mirror: Share of the films whose left and right are exchanged.
        smallest: Side to which films are reduced at least, so that scores do not hang on the source's resolution.
        noise: Grey levels of 255 by which a pixel may be off, as after rounding.
        compressed: Share of the films that are stored as JPEG, of a quality from 40 to 95, with grain of up to four
            grey levels (one standard deviation), so that scores do not hang on how a film was stored.
    """

    rotate: float = 15.0
    scale: float = 0.2
    shift: float = 0.1
    contrast: float = 0.3
    mirror: float = 0.5
    smallest: int = 96
    noise: float = 1.0
    compressed: float = 0.0

    def __call__(self, canvas: Tensor, size: int, draw: np.random.Generator) -> Tensor:
        """Return views (B, 1, size, size) in [0, 1] of films (B, 1, S, S) in bytes.

        `draw` gives the sizes, without waiting for the device; all else is drawn by torch.
        """
        images = torch.cat([self._reduced(part, size, draw) for part in canvas.chunk(GROUPS)])
        return self._exposed(images)

    def _reduced(self, canvas: Tensor, size: int, draw: np.random.Generator) -> Tensor:
        """Reduce films to a size drawn for all of them, then turn, scale, shift and mirror each."""
        images = canvas.float() / 255
        side = int(draw.integers(min(self.smallest, images.shape[-1]), images.shape[-1], endpoint=True))
        for target in (side, min(side, size)):  # a film that is still too large is resized as in evaluation
            if target < images.shape[-1]:
                images = F.interpolate(images, size=(target, target), mode="bilinear", antialias=True)
        if self.compressed and draw.random() < self.compressed:
            images = images + torch.randn_like(images) * (draw.uniform(0, GRAIN) / 255)
            films = (images[:, 0].clamp(0, 1) * 255).round().byte()
            images = stored(films, int(draw.integers(*QUALITY, endpoint=True)))[:, None].to(images.device) / 255
        if self.noise:
            images = images + (torch.rand_like(images) - 0.5) * (2 * self.noise / 255)
        count, device = len(images), images.device
        angle, zoom, x, y = (torch.rand(4, count, device=device) * 2 - 1).unbind()
        side_of = torch.where(torch.rand(count, device=device) < self.mirror, -1.0, 1.0)
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.scale
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        matrix = torch.stack([cos * side_of, -sin, x * 2 * self.shift, sin * side_of, cos, y * 2 * self.shift], dim=1)
        grid = F.affine_grid(matrix.view(count, 2, 3), [count, 1, size, size], align_corners=False)
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def _exposed(self, images: Tensor) -> Tensor:
        """Change contrast and brightness about the mean of each image."""
        gain, offset = (torch.rand(2, len(images), 1, 1, 1, device=images.device) * 2 - 1).mul(self.contrast).unbind()
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return ((images - mean) * (1 + gain) + mean + offset).clamp(0, 1)
