"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when huggingface_hub is imported

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Folder with `nih-10k`, `nih-1024` and `nih-tables`."""
    if not SHARED.is_dir():
        pytest.skip("real data not present: no folder shared/data beside the checkout")
    return SHARED


@pytest.fixture
def full_precision():
    """Convolutions in float32 where float32 is asked for."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
