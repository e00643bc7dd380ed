"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when huggingface_hub is imported

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"real data not present: no folder shared/{folder} beside the checkout")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with `nih-10k`, `nih-1024` and `nih-tables`."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with the ImageNet weights of one backbone."""
    return _shared("weights")
