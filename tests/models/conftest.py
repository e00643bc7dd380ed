"""Small versions of the registered models."""

import pytest
import torch

import causalcxr

# One narrow block per stage. EfficientNet lite0 has no argument for this.
SMALL = {
    "causal_resnet": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)},
    "causal_densenet": {"block_config": (1, 1, 1, 1), "growth_rate": 8},
    "causal_efficientnetv2": {"depth_multiplier": 0.1},
    "causal_convnext": {"depths": (1, 1, 1, 1), "dims": (24, 48, 96, 192)},
    "causal_swin": {"depths": (1, 1, 2, 2), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},  # with shifted windows
    "causal_vit": {"depth": 2, "embed_dim": 96, "num_heads": 3},
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Use one thread: tensors are so small that more threads slow the tests down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small(name, *, seed=0, **kwargs):
    options = {"dim": 32, "num_heads": 4, "depth": 1}
    if name == "causal_timm":
        options["backbone"] = "test_efficientnet"
    for family, backbone_args in SMALL.items():
        if name.startswith(family):
            options["backbone_args"] = backbone_args
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return causalcxr.create_model(name, **(options | kwargs))


@pytest.fixture(scope="session")
def small():
    """Return a function that builds a registered model with a shallow and narrow backbone and head."""
    return _small
