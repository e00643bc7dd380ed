"""Captured graphs agree with the models that they were captured from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import causalcxr
from causalcxr import CausalCXR, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss

NAMES = causalcxr.list_models()
AT_ONCE = ("causal_densenet121", "causal_test_resnet", "causal_vit_small_patch16")
SOME_AT_ONCE = [name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def _images(batch: int = 2, size: int = 64) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SOME_AT_ONCE)
def test_exported_program_takes_any_batch(small: Callable[..., CausalCXR], name: str) -> None:
    model = small(name).eval()
    program = torch.export.export(model, (_images(),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    for batch in (2, 5):
        torch.testing.assert_close(program.module()(_images(batch)), model(_images(batch)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SOME_AT_ONCE)
def test_compiled_causal_forward_is_one_graph(small: Callable[..., CausalCXR], name: str) -> None:
    torch.compiler.reset()
    model = small(name).eval()
    compiled = torch.compile(model.forward_causal, backend="eager", fullgraph=True)
    with torch.no_grad():
        output = compiled(_images(3), need_attention=True)
        torch.testing.assert_close(output, model.forward_causal(_images(3), need_attention=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_compiled_forward_is_one_graph(small: Callable[..., CausalCXR], training: bool) -> None:
    torch.compiler.reset()
    model = small("causal_test_resnet").train(training)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = torch.autograd.grad(model(_images()).sum(), model.get_classifier().weight)
    torch.testing.assert_close(torch.autograd.grad(compiled(_images()).sum(), model.get_classifier().weight), expected)


@pytest.mark.parametrize(
    ("partners", "bank"),
    [("all", 0), pytest.param("all", None, marks=pytest.mark.slow), pytest.param("random", 2, marks=pytest.mark.slow)],
)
def test_compiled_training_step_is_one_graph_for_all_steps(
    small: Callable[..., CausalCXR], partners: str, bank: int | None
) -> None:
    """While the bank of 6 fills up by batches of 4 and is overwritten, too."""
    torch.compiler.reset()

    def objective() -> CausalObjective:
        model, criterion = small("causal_test_resnet"), CausalLoss(partners=partners)
        if bank is None:
            return CausalObjective(model, criterion)
        prior = (0.3, 0.7) if bank else None
        bank_of_six = ConfounderBank(6, 14, model.head_hidden_size, num_strata=bank, strata_prior=prior)
        return CausalObjective(model, criterion, bank=bank_of_six)

    eager, captured = objective(), objective()
    count = CompileCounterWithBackend("aot_eager")
    step = torch.compile(captured, backend=count, fullgraph=True)
    strata = torch.tensor([0, 1, 1, 0]) if bank else None
    targets = (torch.arange(56).view(4, 14) % 3 == 0).float()
    targets[0, 0] = float("nan")
    for number in range(4):
        results = []
        for run, module in ((step, captured), (eager, eager)):
            torch.manual_seed(0)
            losses = run(_images(4) + number, targets, strata)
            results.append((losses, torch.autograd.grad(losses["loss"], list(module.parameters()))))
        torch.testing.assert_close(*results)
    assert count.frame_count == 1
    torch.testing.assert_close(captured.state_dict(), eager.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_at_full_size(name: str) -> None:
    model = causalcxr.create_model(name, **({"backbone": "resnet26d"} if name == "causal_timm" else {}))
    losses = CausalObjective(model)(_images(), torch.zeros(2, 14))
    losses["loss"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
