"""Images with a finding and marker that simple code can read exactly."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor


class Films(NamedTuple):
    images: Tensor  # (N, 1, 64, 64): dark, with a brighter centre for positives
    targets: Tensor  # (N,)


@pytest.fixture
def films():
    """200 images; no unmarked pixel is brighter than 0.3, and letters do not reach the centre."""
    targets = torch.arange(200) % 2
    images = torch.rand(200, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, :, 28:36, 28:36] += 0.2 * targets.view(-1, 1, 1, 1)
    return Films(images, targets)
