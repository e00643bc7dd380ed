"""A training step never looks at values: on an accelerator each look would stall it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import causalcxr
from causalcxr import AgreementObjective, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import AsymmetricLoss, CausalLoss

Step = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


def _causal(device: str) -> tuple[nn.Module, Step]:
    model = causalcxr.create_model("causal_test_resnet", dim=32)
    bank = ConfounderBank(6, 14, 32, num_strata=2, strata_prior=(0.5, 0.5))
    criterion = CausalLoss(partners="random", classification=AsymmetricLoss())
    objective = CausalObjective(model, criterion, bank=bank).to(device)
    return objective, lambda images, targets, strata: objective(images, targets, strata, weight=targets + 1)


def _without_bank(device: str) -> tuple[nn.Module, Step]:
    objective = CausalObjective(causalcxr.create_model("causal_test_resnet", dim=32)).to(device)
    return objective, lambda images, targets, strata: objective(images, targets)


def _agreement(device: str) -> tuple[nn.Module, Step]:
    objective = AgreementObjective(causalcxr.create_model("causal_test_resnet", dim=32)).to(device)
    return objective, lambda images, targets, strata: objective(images, targets)


OBJECTIVES = [_causal, _without_bank, _agreement]


def _inputs(device: str) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(4, 3, 64, 64, device=device),
        torch.zeros(4, 14, device=device),
        torch.tensor([0, 1, 1, 0], device=device),
    )


@pytest.mark.parametrize("build", OBJECTIVES)
def test_step_runs_where_there_are_no_values(build: Callable[[str], tuple[nn.Module, Step]]) -> None:
    """On the meta device a look at a value is an error."""
    objective, step = build("meta")
    for _ in range(2):
        step(*_inputs("meta"))["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("build", OBJECTIVES)
def test_step_does_not_wait_for_the_gpu(build: Callable[[str], tuple[nn.Module, Step]]) -> None:
    _, step = build("cuda")
    inputs = _inputs("cuda")
    step(*inputs)["loss"].backward()  # the first step chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*inputs)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
