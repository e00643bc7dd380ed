"""The loss averaged over confounders against plain arithmetic."""

import functools

import pytest
import torch
from torch import nn

from causalcxr.losses import AsymmetricLoss, backdoor_loss, classification_loss
from reference.comparison import EXACT, normal
from reference.losses import asymmetric, backdoor, cross_entropy

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3]], dtype=torch.float64)
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


@pytest.mark.parametrize("prior", [None, PRIOR], ids=["even", "prior"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("criterion", ["cross-entropy", "asymmetric"])
def test_loss_equals_the_reference(prior: torch.Tensor | None, weighted: bool, criterion: str) -> None:
    settings = {"gamma_pos": 1.0, "gamma_neg": 2.0, "margin": 0.1}
    ours, theirs = {
        "cross-entropy": (nn.BCEWithLogitsLoss(reduction="none"), cross_entropy),
        "asymmetric": (AsymmetricLoss(**settings, reduction="none"), functools.partial(asymmetric, **settings)),
    }[criterion]
    intervened, weight = normal(2, 4, 3), normal(2, 3, seed=2).abs() if weighted else None
    expected = backdoor(
        intervened.tolist(),
        TARGETS.tolist(),
        theirs,
        None if prior is None else prior.tolist(),
        None if weight is None else weight.tolist(),
    )
    loss = backdoor_loss(intervened, TARGETS, prior=prior, criterion=ours, weight=weight)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_reductions_agree() -> None:
    intervened = normal(2, 4, 3)
    each = backdoor_loss(intervened, TARGETS, prior=PRIOR, reduction="none")
    assert each.shape == (2, 3)
    assert not each[TARGETS.isnan()].any()
    torch.testing.assert_close(backdoor_loss(intervened, TARGETS, prior=PRIOR, reduction="sum"), each.sum(), **EXACT)
    torch.testing.assert_close(backdoor_loss(intervened, TARGETS, prior=PRIOR), each.sum() / 4, **EXACT)


def test_one_confounder_or_equal_ones_give_the_loss_of_that_prediction() -> None:
    logits = normal(2, 3)
    expected = classification_loss(logits, TARGETS)
    for copies in (1, 5):
        torch.testing.assert_close(backdoor_loss(logits[:, None].expand(2, copies, 3), TARGETS), expected, **EXACT)


def test_even_prior_is_the_default() -> None:
    intervened = normal(2, 4, 3)
    torch.testing.assert_close(
        backdoor_loss(intervened, TARGETS, prior=torch.full((4,), 0.25)), backdoor_loss(intervened, TARGETS), **EXACT
    )


def test_prior_of_one_confounder_picks_it() -> None:
    intervened = normal(2, 4, 3)
    chosen = backdoor_loss(intervened, TARGETS, prior=torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(chosen, classification_loss(intervened[:, 2], TARGETS), **EXACT)


def test_each_image_may_have_a_prior_of_its_own() -> None:
    intervened = normal(2, 4, 3)
    priors = torch.stack([PRIOR, PRIOR.flip(0)])
    one_by_one = [
        backdoor_loss(intervened[i : i + 1], TARGETS[i : i + 1], prior=priors[i], reduction="none") for i in range(2)
    ]
    together = backdoor_loss(intervened, TARGETS, prior=priors, reduction="none")
    torch.testing.assert_close(together, torch.cat(one_by_one), **EXACT)


def test_known_confounder_of_each_image_picks_its_prediction() -> None:
    intervened, known = normal(2, 4, 3), torch.tensor([3, 1])
    chosen = backdoor_loss(intervened, TARGETS, prior=torch.nn.functional.one_hot(known, 4))
    torch.testing.assert_close(chosen, classification_loss(intervened[[0, 1], known], TARGETS), **EXACT)


@pytest.mark.parametrize("prior", [None, torch.zeros(0)], ids=["even", "prior"])
def test_no_confounder_gives_zero_with_zero_gradient(prior: torch.Tensor | None) -> None:
    h = normal(2, 3).requires_grad_()
    intervened = h[:, None] + torch.zeros(0, 3, dtype=torch.float64)
    assert intervened.shape == (2, 0, 3)
    loss = backdoor_loss(intervened, TARGETS, prior=prior)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, h)[0].any()


def test_average_stays_in_float32_under_autocast() -> None:
    intervened, targets, prior = normal(8, 300, 5).float(), torch.ones(8, 5), normal(300, seed=2).softmax(dim=0).float()
    expected = backdoor_loss(intervened, targets, prior=prior)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = backdoor_loss(intervened, targets, prior=prior)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("prior", "given"),
    [
        (torch.ones(1), r"\(1,\)"),
        (torch.ones(4, 1), r"\(4, 1\)"),
        (torch.ones(3, 4), r"\(3, 4\)"),
        ([0.25] * 4, r"\[0.25"),
    ],
)
def test_prior_must_have_one_probability_for_each_confounder(prior: object, given: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"one probability for each of the 4 confounders .*of the 2 images, \(B, S\), but got {given}",
    ):
        backdoor_loss(torch.zeros(2, 4, 3), TARGETS, prior=prior)


def test_intervened_logits_need_three_axes() -> None:
    with pytest.raises(ValueError, match=r"intervened must have shape \(B, S, K\), but got \(2, 3\)"):
        backdoor_loss(torch.zeros(2, 3), TARGETS)


def test_targets_must_be_those_of_the_images() -> None:
    with pytest.raises(ValueError, match=r"targets must have shape \(B, K\), B=5, K=3, but got \(2, 3\)"):
        backdoor_loss(torch.zeros(5, 2, 3), TARGETS)


def test_integer_targets_are_refused() -> None:
    with pytest.raises(TypeError, match=r"targets must be a floating-point tensor .* use targets.float\(\)"):
        backdoor_loss(torch.zeros(2, 4, 3), torch.zeros(2, 3, dtype=torch.long))


def test_targets_outside_zero_and_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\]"):
        backdoor_loss(torch.zeros(1, 2, 1), -torch.ones(1, 1))
