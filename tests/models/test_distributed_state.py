"""The weights that a distributed wrapper holds are those of the model inside."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.parallel import DistributedDataParallel

from causalcxr import CausalCXR, CausalObjective


@pytest.fixture(autouse=True)
def _one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    time.sleep(0.2)  # before torch 2.8, destroying a group that still lets go of its last tensors may hang
    dist.destroy_process_group()


@pytest.fixture
def trained(small: Callable[..., CausalCXR]) -> CausalCXR:
    """A model after one step without any wrapper."""
    model = small("causal_test_resnet")
    _train(CausalObjective(model))
    return model


def _images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _train(objective: nn.Module) -> None:
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    objective(_images(), torch.eye(4, 14))["loss"].backward()
    optimizer.step()


def _assert_a_fresh_model_predicts_the_same(
    state: dict[str, Tensor], trained: CausalCXR, small: Callable[..., CausalCXR]
) -> None:
    fresh = small("causal_test_resnet", seed=1)
    fresh.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(_images()), trained.eval()(_images()))


def test_data_parallel_objective(small: Callable[..., CausalCXR], trained: CausalCXR) -> None:
    wrapped = DistributedDataParallel(CausalObjective(small("causal_test_resnet")))
    _train(wrapped)
    state = wrapped.state_dict()
    consume_prefix_in_state_dict_if_present(state, "module.model.")
    _assert_a_fresh_model_predicts_the_same(state, trained, small)
    assert state.keys() == wrapped.module.model.state_dict().keys()
    assert get_model_state_dict(wrapped).keys() == CausalObjective(trained).state_dict().keys()


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on accelerators alone")
def test_fully_sharded_model(small: Callable[..., CausalCXR], trained: CausalCXR) -> None:
    model = small("causal_test_resnet")
    mesh = init_device_mesh("cpu", (1,))
    for module in (model.backbone.layer1, model.backbone.layer2, model.head, model):
        fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(model, "forward_causal")
    _train(CausalObjective(model))
    assert model.state_dict().keys() == trained.state_dict().keys()
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(_images()), trained.eval()(_images()))
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    _assert_a_fresh_model_predicts_the_same(whole, trained, small)
