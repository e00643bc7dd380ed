"""Small versions of the registered models."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import causalcxr
from causalcxr import CausalCXR

# One block in each stage; EfficientNets have no argument for it.
SHALLOW = {
    "causal_resnet": {"layers": (1, 1, 1, 1)},
    "causal_densenet": {"block_config": (1, 1, 1, 1)},
    "causal_convnext": {"depths": (1, 1, 1, 1)},
    "causal_swin": {"depths": (1, 1, 2, 2)},  # with shifted windows
    "causal_vit": {"depth": 2},
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are so small here that threads cost more than they save, much more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small(name: str, *, seed: int = 0, **kwargs: Any) -> CausalCXR:
    options: dict[str, Any] = {"dim": 32, "num_heads": 4, "depth": 1}
    if name == "causal_timm":
        options["backbone"] = "test_efficientnet"
    for family, backbone_args in SHALLOW.items():
        if name.startswith(family):
            options["backbone_args"] = backbone_args
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return causalcxr.create_model(name, **(options | kwargs))


@pytest.fixture(scope="session")
def small() -> Callable[..., CausalCXR]:
    """Build a registered model by its own entry point with a shallow backbone and a narrow head."""
    return _small
