"""Random views of radiographs for training, the same for the same seed, epoch and image."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    images: Tensor,
    indices: Tensor,
    epoch: int,
    *,
    seed: int,
    rotate: float,
    scale: float,
    shift: float,
    contrast: float,
    mirror: bool = False,
) -> Tensor:
    """Turn, scale, shift and re-expose each image by its own draw, which depends on (seed, epoch, index) alone.

    Args:
        images: (B, 1, H, W) in [0, 1].
        indices: (B,) index of each image in its data set.
        epoch: Number of the epoch.
        seed: Seed of the run.
        rotate: Degrees, at most.
        scale: Larger or smaller, at most, as a part of 1.
        shift: Part of the side, at most.
        contrast: Stronger or weaker, and brighter or darker, at most.
        mirror: Whether to exchange left and right in half of the images.
    """
    draws = np.stack([np.random.default_rng((seed, epoch, int(i))).uniform(-1, 1, 7) for i in indices])
    angle, zoom, x, y, gain, offset, side = torch.tensor(draws, dtype=images.dtype, device=images.device).unbind(1)
    if mirror:
        images = torch.where((side > 0).view(-1, 1, 1, 1), images.flip(-1), images)
    angle, zoom = angle * math.radians(rotate), 1 + zoom * scale
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    grid = sampling_grid(cos, sin, x * 2 * shift, y * 2 * shift, *images.shape[-2:])
    images = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    gain, offset = 1 + gain * contrast, offset * contrast
    # (image - mean) * gain + mean + offset, in one pass
    mean = images.mean(dim=(1, 2, 3))
    gain, offset = (t.view(-1, 1, 1, 1) for t in (gain, mean * (1 - gain) + offset))
    return torch.addcmul(offset, images, gain).clamp_(0, 1)


def sampling_grid(cos: Tensor, sin: Tensor, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Return where to sample images (B, 1, H, W) that are turned, scaled and shifted so, (B, H, W, 2).

    It is what `F.affine_grid` returns, which takes longer than the sampling itself.
    """
    rows, cols = (torch.arange(1 - n, n, 2, dtype=cos.dtype, device=cos.device) / n for n in (height, width))
    cos, sin, x, y = (t.view(-1, 1) for t in (cos, sin, x, y))
    grid = torch.empty(len(cos), height, width, 2, dtype=cos.dtype, device=cos.device)
    torch.add((cols * cos)[:, None], (x - rows * sin)[:, :, None], out=grid[..., 0])
    torch.add((cols * sin)[:, None], (y + rows * cos)[:, :, None], out=grid[..., 1])
    return grid
