"""Grey images as the input of a model."""

from typing import Any

import torch
from torch import Tensor


class Normalise:
    """Repeat the grey channel, subtract the mean and divide by the standard deviation of the model's `pretrained_cfg`.

    Both wait on the device: made anew at every step they would make the step wait for a copy.
    """

    def __init__(self, model: Any, device: torch.device | str) -> None:
        cfg = model.pretrained_cfg
        self.mean, self.std = (torch.tensor(cfg[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std"))

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W) of images (B, 1, H, W) in [0, 1]."""
        return (images - self.mean) / self.std
