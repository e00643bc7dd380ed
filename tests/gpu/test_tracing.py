"""Captured graphs on a GPU; tests/models has those on the CPU. Last, since compiling takes longest."""

import copy

import pytest
import torch

import causalcxr
from causalcxr import CausalObjective
from causalcxr.layers import ConfounderBank
from reference.comparison import DEVICES, normal, relative_error

pytestmark = pytest.mark.parametrize("device", DEVICES[1:])


def _images(device, batch=4):
    return normal(batch, 3, 64, 64).float().to(device)


def _targets(device):
    return (torch.arange(56).view(4, 14) % 3 == 0).float().to(device)


def _objective(device):
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet")
    return CausalObjective(model, bank=ConfounderBank(6, 14, model.head_hidden_size)).to(device)


def test_exported_program(device):
    model = causalcxr.create_model("causal_test_resnet").eval().to(device)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (_images(device),), dynamic_shapes=({0: batch},))
    for images in (_images(device, 4), _images(device, 7)):
        assert relative_error(program.module()(images), model(images).double()) < 1e-3


def test_compiled_training_steps_are_one_graph(device):
    torch.compiler.reset()
    plain = _objective(device)
    captured = copy.deepcopy(plain)
    step = torch.compile(captured, fullgraph=True)
    for _ in range(2):
        results = []
        for run, objective in ((step, captured), (plain, plain)):
            objective.zero_grad()
            losses = run(_images(device), _targets(device))
            losses["loss"].backward()
            results.append({name: loss.item() for name, loss in losses.items()})
        assert results[0] == pytest.approx(results[1], rel=1e-2, abs=1e-3)
    norm = sum(float(p.grad.square().sum()) for p in plain.parameters()) ** 0.5
    for mine, theirs in zip(captured.parameters(), plain.parameters(), strict=True):
        assert float((mine.grad - theirs.grad).norm()) < 0.05 * norm
    assert relative_error(captured.bank.stored, plain.bank.stored.double()) < 0.05
