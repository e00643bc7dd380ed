"""A training step never reads values, which would stall an accelerator. tests/gpu checks this on a real one."""

import pytest
import torch

import causalcxr
from causalcxr import AgreementObjective, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import AsymmetricLoss, CausalLoss


@pytest.mark.parametrize("kind", ["agreement", "batch", "bank"])
def test_step_runs_where_there_are_no_values_and_uses_every_parameter(kind):
    """On the meta device, reading a value is an error. A distributed wrapper waits for every parameter."""
    model = causalcxr.create_model("causal_test_resnet", dim=32)
    bank = ConfounderBank(6, 14, 32) if kind == "bank" else None
    criterion = CausalLoss(partners="random", classification=AsymmetricLoss())
    objective = AgreementObjective(model) if kind == "agreement" else CausalObjective(model, criterion, bank=bank)
    objective.to("meta")
    images, targets = torch.empty(4, 3, 64, 64, device="meta"), torch.empty(4, 14, device="meta")
    for _ in range(2):  # with an empty bank, and with one that holds features
        objective.zero_grad()
        objective(images, targets, weight=targets)["loss"].backward()
        assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)
