"""The training objective against its parts called by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

from causalcxr import CausalHead, CausalObjective, CausalOutput
from causalcxr.layers import ConfounderBank
from causalcxr.losses import AsymmetricLoss, CausalLoss
from reference.comparison import EXACT, normal, randomised

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0], [1.0, NAN], [0.0, 0.0], [1.0, 1.0]])
STRATA = torch.tensor([0, 0, 0, 1])


class _Model(nn.Module):
    """A head behind `forward_causal`, the one method that the objective asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.head = randomised(CausalHead(3, 2, dim=4, num_heads=2))

    def forward_causal(self, images: Tensor, confounders: Tensor | None = None) -> CausalOutput:
        return self.head(images, confounders)


def _images(seed: int = 1) -> Tensor:
    return normal(4, 3, 2, 2, seed=seed)


def _bank(size: int = 6, **kwargs: object) -> ConfounderBank:
    return ConfounderBank(size, num_classes=2, dim=4, dtype=torch.float64, **kwargs)


def test_without_a_bank_confounders_are_those_of_the_batch() -> None:
    model, criterion = _Model(), CausalLoss(0.3, 0.7, classification=AsymmetricLoss())
    weight = normal(4, 2, seed=2).abs()
    losses = CausalObjective(model, criterion)(_images(), TARGETS, weight=weight)
    torch.testing.assert_close(losses, criterion(model.head(_images()), TARGETS, weight=weight), **EXACT)


@pytest.mark.parametrize("num_strata", [0, 2])
def test_with_a_bank_confounders_are_those_of_past_batches_by_their_prior(num_strata: int) -> None:
    """Bank of 6, batches of 4: the third step reads the full bank and overwrites it before its backward pass."""
    prior = (0.5, 0.5) if num_strata else None
    strata = STRATA if num_strata else None
    model, bank = _Model(), _bank(num_strata=num_strata, strata_prior=prior)
    objective, by_hand = CausalObjective(model, bank=bank), _bank(num_strata=num_strata, strata_prior=prior)
    weight = normal(4, 2, seed=2).abs()
    for step in range(3):
        losses = objective(_images(step), TARGETS, strata, weight=weight)
        output = model.head(_images(step), by_hand.features.clone())
        expected = CausalLoss()(output, TARGETS, prior=by_hand.prior.clone() if num_strata else None, weight=weight)
        torch.testing.assert_close(losses, expected, **EXACT)
        assert (losses["bd"].item() == 0) == (step == 0)
        torch.testing.assert_close(
            torch.autograd.grad(losses["loss"], list(model.parameters())),
            torch.autograd.grad(expected["loss"], list(model.parameters())),
            **EXACT,
        )
        by_hand.update(output.confounder, strata)
        assert torch.equal(bank.features, by_hand.features)
        assert torch.equal(bank.strata, by_hand.strata)


def test_bank_is_filled_in_training_and_left_alone_in_evaluation() -> None:
    bank = _bank()
    objective = CausalObjective(_Model(), bank=bank)
    objective.eval()(_images(), TARGETS)
    assert len(bank) == 0
    objective.train()(_images(), TARGETS)
    assert len(bank) == 4
    stored = bank.features.clone()
    first, second = (objective.eval()(_images(2), TARGETS) for _ in range(2))
    assert torch.equal(bank.features, stored)
    assert first["bd"].item() == second["bd"].item() > 0


def test_random_partners_follow_the_prior_of_the_strata() -> None:
    """With P(c) = (0, 1) only the confounders of stratum 1 are borrowed, all with the same features here."""
    model, bank = _Model(), _bank(num_strata=2, strata_prior=(0.0, 1.0))
    confounder = normal(1, 2, 4, seed=3)
    bank.update(torch.cat([normal(3, 2, 4, seed=4), confounder, confounder]), torch.tensor([0, 0, 0, 1, 1]))
    expected = CausalLoss()(model.head(_images(), confounder), TARGETS)
    losses = CausalObjective(model, CausalLoss(partners="random"), bank=bank)(_images(), TARGETS, STRATA)
    torch.testing.assert_close(losses, expected, **EXACT)


def test_random_partners_of_an_empty_bank_cost_nothing() -> None:
    losses = CausalObjective(_Model(), CausalLoss(partners="random"), bank=_bank())(_images(), TARGETS)
    assert losses["bd"].item() == 0
    assert losses["sl"].item() > 0


def test_random_partners_in_evaluation_are_the_full_weighted_average() -> None:
    bank = _bank(num_strata=2, strata_prior=(0.3, 0.7))
    bank.update(normal(4, 2, 4, seed=3), STRATA)
    full, random = (
        CausalObjective(_Model(), CausalLoss(partners=partners), bank=copy.deepcopy(bank)).eval()(_images(), TARGETS)
        for partners in ("all", "random")
    )
    torch.testing.assert_close(full, random, **EXACT)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("with_bank", [False, True])
def test_every_parameter_takes_part_in_every_step(with_bank: bool, filled: bool) -> None:
    objective = CausalObjective(_Model(), bank=_bank() if with_bank else None)
    if filled:
        objective(_images(), TARGETS)
    objective(_images(2), TARGETS)["loss"].backward()
    assert [name for name, parameter in objective.named_parameters() if parameter.grad is None] == []


def test_bank_and_model_are_saved_together_and_resumed() -> None:
    first, second = (CausalObjective(_Model(), bank=_bank()) for _ in range(2))
    first(_images(), TARGETS)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(_images(2), TARGETS), second(_images(2), TARGETS), rtol=0, atol=0)


def test_features_that_are_not_finite_cost_one_step() -> None:
    """They never enter the bank, where every later step would read them."""
    model, bank = _Model(), _bank()
    objective = CausalObjective(model, bank=bank)
    images = _images()
    images[0] = NAN
    model.eval()  # with batch statistics the whole batch would be lost
    assert objective(images, TARGETS)["loss"].isnan()
    assert len(bank) == 3
    assert objective(_images(), TARGETS)["loss"].isfinite()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Linear has none; put a causalcxr.CausalHead"):
        CausalObjective(nn.Linear(2, 2))
    for criterion in (_bank(), nn.BCEWithLogitsLoss(), AsymmetricLoss()):
        with pytest.raises(TypeError, match=rf"got {type(criterion).__name__}; give a bank as bank=.*classification="):
            CausalObjective(_Model(), criterion)
    for sizes in ((3, 4), (2, 8)):
        with pytest.raises(ValueError, match="the model has 2 x 4; build it with"):
            CausalObjective(_Model(), bank=ConfounderBank(6, *sizes))
    with pytest.raises(ValueError, match="strata need a bank"):
        CausalObjective(_Model())(_images(), TARGETS, STRATA)
    with pytest.raises(ValueError, match="strata were not given"):
        CausalObjective(_Model(), bank=_bank(num_strata=2))(_images(), TARGETS)
    with pytest.raises(ValueError, match="strata were given"):
        CausalObjective(_Model(), bank=_bank())(_images(), TARGETS, STRATA)
