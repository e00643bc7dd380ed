"""A sharded model has the same weights as the original."""

import time

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from causalcxr import CausalObjective
from reference.comparison import images


@pytest.fixture(autouse=True)
def _one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    time.sleep(0.2)  # before torch 2.8, destroying a group while it releases its last tensors may hang
    dist.destroy_process_group()


def _train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    CausalObjective(model)(images(batch=4), torch.eye(4, 14))["loss"].backward()
    optimizer.step()
    model.eval()


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on accelerators alone")
def test_fully_sharded_model(small):
    expected, model, fresh = (small("causal_test_resnet", seed=seed) for seed in (0, 0, 1))
    _train(expected)
    mesh = init_device_mesh("cpu", (1,))
    for module in (model.backbone.layer1, model.backbone.layer2, model.head, model):
        fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(model, "forward_causal")
    _train(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    fresh.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(images()), expected(images()))
        assert torch.equal(fresh.eval()(images()), expected(images()))
