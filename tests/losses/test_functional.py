"""The functional losses against plain arithmetic and torch's own loss, and where powers and logarithms could fail.

test_causal.py compares cross-entropy and the average over confounders with the literal equations.
"""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from causalcxr.losses import AsymmetricLoss, asymmetric_loss, backdoor_loss, classification_loss, uniform_kl_loss
from reference.comparison import EXACT, normal
from reference.losses import asymmetric, known_mean, uniform_kl

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3], [0.0, 0.0, 1.0], [NAN, NAN, NAN]], dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_loss_with_all_labels_known_is_torchs(reduction):
    logits, targets, weight = normal(2, 3, 5), normal(2, 3, 5, seed=2).sigmoid(), normal(2, 3, 5, seed=3).abs()
    torch.testing.assert_close(
        classification_loss(logits, targets, weight=weight, reduction=reduction),
        F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction=reduction),
        **EXACT,
    )


@pytest.mark.parametrize("weight", [torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.5], [2.0], [1.0], [0.0]])])
def test_weight_broadcasts_and_does_not_enter_the_divisor(weight):
    logits = normal(4, 3)
    each = classification_loss(logits, TARGETS, reduction="none")
    expected = (each * weight.double()).sum() / 7
    torch.testing.assert_close(classification_loss(logits, TARGETS, weight=weight), expected, **EXACT)


@pytest.mark.parametrize(
    ("gamma_pos", "gamma_neg", "margin"),
    [(0.0, 4.0, 0.05), (1.0, 4.0, 0.0), (0.5, 0.5, 0.3), (2.0, 0.0, 0.2), (0.0, 0.0, 0.0)],
)
def test_asymmetric_loss_equals_the_reference(gamma_pos, gamma_neg, margin):
    settings = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "margin": margin}
    logits, weight = 3 * normal(4, 3), normal(4, 3, seed=2).abs()
    element = functools.partial(asymmetric, **settings)
    expected = known_mean(logits.tolist(), TARGETS.tolist(), element, weight.tolist())
    assert asymmetric_loss(logits, TARGETS, weight=weight, **settings).item() == pytest.approx(expected, rel=1e-12)
    assert AsymmetricLoss(**settings)(logits, TARGETS, weight=weight).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.05, 1e-9, 1e-30])
def test_confident_mistake_on_a_negative_label_costs_minus_log_of_the_margin(margin, dtype):
    """At p = 1 the loss is (1 - m)^gamma (-log m). It would be infinite if 1 - (p - m) were rounded to 0."""
    logits = torch.tensor([[200.0]], dtype=dtype, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(1, 1, dtype=dtype), margin=margin)
    assert loss.item() == pytest.approx(-math.log(margin) * (1 - margin) ** 4, rel=1e-5)
    assert bool(torch.autograd.grad(loss, logits)[0].isfinite().all())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_any_exponent_has_finite_gradients_at_any_logit(gamma, with_margin, target):
    logits = torch.tensor([-6e4, -200.0, -60.0, -3.0, 0.0, 60.0, 200.0, 6e4], requires_grad=True)
    # p - m is exactly 0 at one logit, where the power has an infinite slope.
    margin = F.logsigmoid(logits).exp()[3].item() if with_margin else 0.0
    loss = asymmetric_loss(
        logits, torch.full((8,), target), gamma_pos=gamma, gamma_neg=gamma, margin=margin, reduction="none"
    )
    assert bool(loss.isfinite().all())
    assert bool(torch.autograd.grad(loss.sum(), logits)[0].isfinite().all())


@pytest.mark.parametrize("uniform", ["categorical", "bernoulli"])
def test_divergence_from_uniform_equals_the_reference(uniform):
    logits = 3 * normal(2, 3, 5)
    expected = [[uniform_kl(row, uniform=uniform) for row in rows] for rows in logits.tolist()]
    given = uniform_kl_loss(logits, uniform=uniform, reduction="none")
    torch.testing.assert_close(given, torch.tensor(expected, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(uniform_kl_loss(logits, uniform=uniform, reduction="sum"), given.sum(), **EXACT)
    torch.testing.assert_close(uniform_kl_loss(logits, uniform=uniform), given.mean(), **EXACT)


def test_known_confounder_of_each_image_picks_its_prediction():
    intervened, known = normal(2, 4, 3), torch.tensor([3, 1])
    for reduction in ("none", "mean", "sum"):
        given = backdoor_loss(intervened, TARGETS[:2], prior=F.one_hot(known, 4), reduction=reduction)
        expected = classification_loss(intervened[[0, 1], known], TARGETS[:2], reduction=reduction)
        torch.testing.assert_close(given, expected, **EXACT)


def test_prior_may_be_rounded():
    prior = torch.full((6,), 1 / 6, dtype=torch.bfloat16)
    loss = backdoor_loss(torch.zeros(2, 6, 3), torch.ones(2, 3), prior=prior)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-2)
