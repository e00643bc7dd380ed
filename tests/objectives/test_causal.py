"""The causal training objective against manual calls of its parts, and steps that never read values."""

import pytest
import torch
from torch import nn

import causalcxr
from causalcxr import AgreementObjective, CausalHead, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import AsymmetricLoss, CausalLoss
from reference.comparison import EXACT, normal, randomised

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0], [1.0, NAN], [0.0, 0.0], [1.0, 1.0]])


class _Model(nn.Module):
    """A head behind `forward_causal`, the only method that the objective requires."""

    def __init__(self):
        super().__init__()
        self.head = randomised(CausalHead(3, 2, dim=4, num_heads=2))

    def forward_causal(self, images, confounders=None):
        return self.head(images, confounders)


def _images(seed=1):
    return normal(4, 3, 2, 2, seed=seed)


def _bank():
    return ConfounderBank(6, num_classes=2, dim=4, dtype=torch.float64)


def test_without_a_bank_confounders_are_those_of_the_batch():
    model, criterion = _Model(), CausalLoss(0.3, 0.7, classification=AsymmetricLoss())
    weight = normal(4, 2, seed=2).abs()
    losses = CausalObjective(model, criterion)(_images(), TARGETS, weight=weight)
    torch.testing.assert_close(losses, criterion(model.head(_images()), TARGETS, weight=weight), **EXACT)


def test_with_a_bank_confounders_are_those_of_past_batches():
    """With a bank of 6 and batches of 4, step three reads the full bank and overwrites it before its backward pass."""
    model, bank, by_hand = _Model(), _bank(), _bank()
    objective = CausalObjective(model, bank=bank)
    weight = normal(4, 2, seed=2).abs()
    for step in range(3):
        losses = objective(_images(step), TARGETS, weight=weight)
        output = model.head(_images(step), by_hand.features.clone())
        expected = CausalLoss()(output, TARGETS, weight=weight)
        torch.testing.assert_close(losses, expected, **EXACT)
        assert (losses["bd"].item() == 0) == (step == 0)
        torch.testing.assert_close(
            torch.autograd.grad(losses["loss"], list(model.parameters())),
            torch.autograd.grad(expected["loss"], list(model.parameters())),
            **EXACT,
        )
        by_hand.update(output.confounder)
        assert torch.equal(bank.features, by_hand.features)


def test_evaluation_borrows_from_the_bank_and_leaves_it_alone():
    bank = _bank()
    objective = CausalObjective(_Model(), bank=bank)
    objective(_images(), TARGETS)
    stored = bank.features.clone()
    assert objective.eval()(_images(2), TARGETS)["bd"] > 0
    assert torch.equal(bank.features, stored)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CausalObjective(nn.Linear(2, 2)), TypeError, "Linear has none; put a causalcxr.CausalHead"),
        (lambda: CausalObjective(_Model(), _bank()), TypeError, "got ConfounderBank; pass a bank as bank="),
        (lambda: CausalObjective(_Model(), AsymmetricLoss()), TypeError, r"CausalLoss\(classification="),
        (lambda: CausalObjective(_Model(), bank=ConfounderBank(6, 3, 4))(_images(), TARGETS), ValueError, "K=2, D=4"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


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
