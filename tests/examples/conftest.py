"""Arguments of short runs; the examples are scripts, run through their `main`."""

import pytest


@pytest.fixture
def options() -> list[str]:
    """Arguments of a run of seconds: two steps an epoch."""
    small = {
        "data": "synthetic:16",
        "model": "causal_test_resnet",
        "image-size": 64,
        "batch-size": 8,
        "epochs": 2,
        "bank-size": 12,
        "workers": 0,
        "device": "cpu",
    }
    return [f"--{name}={value}" for name, value in small.items()]
