"""Random augmentations of training films, drawn on the device for a whole batch."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .films import resize

GROUPS = 4  # per batch; films of a group share one reduced size and JPEG quality
QUALITY, GRAIN = (40, 95), 4.0


def stored(films: Tensor, quality: int) -> Tensor:
    """Return uint8 films (N, H, W) after a round trip through JPEG."""
    after = []
    for film in films.cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=quality)
        after.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(after))


@dataclass(frozen=True)
class Views:
    """Augment films at random.

    Args:
        rotate: Maximum rotation in degrees.
        scale: Maximum relative change of scale.
        shift: Maximum shift, as a fraction of the side.
        contrast: Maximum relative change of contrast, and maximum change of brightness.
        mirror: Probability of a horizontal flip.
        smallest: Minimum side to which films are reduced, so that scores do not depend on the source's resolution.
        largest: Maximum side. Films smaller than the side drawn are not reduced.
        enlarge: Whether to enlarge smaller films to `largest` first. They are then less sharp than in evaluation.
        noise: Maximum error of a pixel in grey levels of 255, as after rounding.
        compressed: Probability of storing films as JPEG of quality 40 to 95, with grain of up to four grey levels (one
            standard deviation), so that scores do not depend on how a film was stored.
    """

    rotate: float = 15.0
    scale: float = 0.2
    shift: float = 0.1
    contrast: float = 0.3
    mirror: float = 0.5
    smallest: int = 96
    largest: int = 320
    enlarge: bool = True
    noise: float = 1.0
    compressed: float = 0.0

    def __call__(self, films: Tensor, size: int, draw: np.random.Generator) -> Tensor:
        """Return views (B, 1, size, size) in [0, 1] of uint8 films (B, S, S).

        `draw` chooses sizes and JPEG options on the CPU. Everything else is drawn by torch.
        """
        images = torch.cat([self._reduced(part, size, draw) for part in films.chunk(GROUPS)])
        return self._exposed(images)

    def _reduced(self, films: Tensor, size: int, draw: np.random.Generator) -> Tensor:
        """Reduce films to a random size common to all, then rotate, scale, shift and flip each."""
        images = resize(films, max(self.largest, films.shape[-1]) if self.enlarge else films.shape[-1])
        side = int(draw.integers(self.smallest, self.largest, endpoint=True))
        for target in (side, min(side, size)):  # a film that is still too large is resized as in evaluation
            if target < images.shape[-1]:
                images = F.interpolate(images, size=(target, target), mode="bilinear", antialias=True)
        if self.compressed and draw.random() < self.compressed:
            images = images + torch.randn_like(images) * (draw.uniform(0, GRAIN) / 255)
            rounded = (images[:, 0].clamp(0, 1) * 255).round().byte()
            images = stored(rounded, int(draw.integers(*QUALITY, endpoint=True)))[:, None].to(images.device) / 255
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
        """Change brightness, and contrast about the mean of each image."""
        gain, offset = (torch.rand(2, len(images), 1, 1, 1, device=images.device) * 2 - 1).mul(self.contrast).unbind()
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return ((images - mean) * (1 + gain) + mean + offset).clamp(0, 1)
