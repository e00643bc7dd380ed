"""Captured graphs on each device. Last, since compiling takes longest."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import causalcxr
from causalcxr import CausalObjective
from causalcxr.layers import ConfounderBank
from reference.comparison import DEVICES, normal, relative_error

ON_CUDA = DEVICES[1:]
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), *ON_CUDA]


def _images(device: str, batch: int = 4) -> Tensor:
    return normal(batch, 3, 64, 64).float().to(device)


def _objective(device: str) -> CausalObjective:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet")
    return CausalObjective(model, bank=ConfounderBank(6, 14, model.head_hidden_size)).to(device)


def _targets(device: str) -> Tensor:
    return (torch.arange(56).view(4, 14) % 3 == 0).float().to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_exported_program(device: str) -> None:
    model = causalcxr.create_model("causal_test_resnet").eval().to(device)
    program = torch.export.export(
        model, (_images(device),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},)
    )
    with torch.no_grad():
        for batch in (4, 7):
            images = _images(device, batch)
            assert relative_error(program.module()(images).cpu().double(), model(images).cpu().double()) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_training_steps_are_one_graph(device: str) -> None:
    """As by `torch.compile(fullgraph=True)`; on the CPU without code generation, which takes a compiler of C++."""
    torch.compiler.reset()
    plain = _objective(device)
    captured = copy.deepcopy(plain)
    backend = "inductor" if device == "cuda" else "aot_eager"
    step = torch.compile(captured, fullgraph=True, backend=backend)
    for _ in range(2):
        results = []
        for run, objective in ((step, captured), (plain, plain)):
            objective.zero_grad()
            losses = run(_images(device), _targets(device))
            losses["loss"].backward()
            results.append({name: loss.item() for name, loss in losses.items()})
        assert results[0] == pytest.approx(results[1], rel=1e-2, abs=1e-3)
    norm = sum(float(p.grad.square().sum()) for p in plain.parameters() if p.grad is not None) ** 0.5
    for mine, theirs in zip(captured.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert float((mine.grad - theirs.grad).norm()) < 0.05 * norm
    assert relative_error(captured.bank.stored.cpu().double(), plain.bank.stored.cpu().double()) < 0.05


@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("what", ["prediction", "training step"])
def test_cuda_graphs(what: str, device: str, record_property: Any, capfd: pytest.CaptureFixture) -> None:
    """A record, not a promise: whether `mode="reduce-overhead"` works, and if not, why."""
    torch.compiler.reset()
    counters.clear()
    try:
        if what == "prediction":
            model = causalcxr.create_model("causal_test_resnet").eval().to(device)
            run = torch.compile(model, mode="reduce-overhead", fullgraph=True)
            with torch.no_grad():
                for _ in range(4):
                    torch.compiler.cudagraph_mark_step_begin()
                    given = run(_images(device)).clone()
                same = relative_error(given.cpu().double(), model(_images(device)).cpu().double()) < 1e-2
        else:
            objective, plain = _objective(device), _objective(device)
            run = torch.compile(objective, mode="reduce-overhead", fullgraph=True)
            for _ in range(4):
                torch.compiler.cudagraph_mark_step_begin()
                given = run(_images(device), _targets(device))["loss"]
                value = given.item()
                given.backward()
                expected = plain(_images(device), _targets(device))["loss"]
            same = value == pytest.approx(expected.item(), rel=1e-2)
        skipped = counters["inductor"]["cudagraph_skips"]
        lines = capfd.readouterr().err.splitlines()
        reasons = sorted({line[-160:] for line in lines if "cudagraphs due to" in line})
        finding = "works" if same else "runs, but with another result"
        if skipped:
            finding = f"runs without CUDA graphs ({skipped} skipped: {'; '.join(reasons) or 'no reason given'})"
    except Exception as error:
        finding = f"does not work: {type(error).__name__}: {str(error)[:300]}"
    record_property("CUDA graphs", finding)
