"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Path of the folder with `nih-10k`, `nih-1024` and `nih-tables`."""
    if not SHARED.is_dir():
        pytest.skip("real data not available: no folder shared/data next to the checkout")
    return SHARED


@pytest.fixture
def full_precision():
    """Turn off TF32, so that float32 convolutions run in full precision."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
