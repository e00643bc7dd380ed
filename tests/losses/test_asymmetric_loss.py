"""The asymmetric loss against plain arithmetic, and where its powers and logarithms could fail."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from causalcxr.losses import asymmetric_loss, classification_loss
from reference.comparison import EXACT, normal
from reference.losses import asymmetric, known_mean

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("gamma_pos", "gamma_neg", "margin"),
    [(0.0, 4.0, 0.05), (1.0, 4.0, 0.0), (0.5, 0.5, 0.3), (2.0, 0.0, 0.2), (0.0, 0.0, 0.0)],
)
def test_loss_equals_the_reference(gamma_pos: float, gamma_neg: float, margin: float) -> None:
    settings = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "margin": margin}
    logits, weight = 3 * normal(3, 3), normal(3, 3, seed=2).abs()
    element = functools.partial(asymmetric, **settings)
    expected = known_mean(logits.tolist(), TARGETS.tolist(), element, weight.tolist())
    assert asymmetric_loss(logits, TARGETS, weight=weight, **settings).item() == pytest.approx(expected, rel=1e-12)


def test_without_focus_and_margin_it_is_cross_entropy() -> None:
    logits = 10 * normal(3, 3)
    plain = {"gamma_pos": 0, "gamma_neg": 0, "margin": 0}
    torch.testing.assert_close(
        asymmetric_loss(logits, TARGETS, **plain, reduction="none"),
        classification_loss(logits, TARGETS, reduction="none"),
        **EXACT,
    )


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 1.0, 4.0])
def test_negative_label_below_the_margin_costs_nothing_and_pulls_nothing(gamma_neg: float) -> None:
    logits = torch.tensor([[-60.0, -4.0, math.log(0.2 / 0.8)]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(1, 3), gamma_neg=gamma_neg, margin=0.21, reduction="none")
    assert loss.tolist() == [[0, 0, 0]]
    assert torch.autograd.grad(loss.sum(), logits)[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.05, 1e-9, 1e-30])
def test_confident_mistake_on_a_negative_label_costs_minus_log_of_the_margin(margin: float, dtype: torch.dtype) -> None:
    """p = 1: the loss is (1 - m)^gamma (-log m), which 1 - (p - m) = 0 in float32 would make infinite."""
    logits = torch.tensor([[200.0]], dtype=dtype, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(1, 1, dtype=dtype), margin=margin)
    assert loss.item() == pytest.approx(-math.log(margin) * (1 - margin) ** 4, rel=1e-5)
    assert bool(torch.autograd.grad(loss, logits)[0].isfinite().all())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_any_exponent_has_finite_gradients_at_any_logit(gamma: float, with_margin: bool, target: float) -> None:
    logits = torch.tensor([-6e4, -200.0, -60.0, -3.0, 0.0, 60.0, 200.0, 6e4], requires_grad=True)
    # With p - m exactly 0 at one logit, where the power has no finite slope.
    margin = F.logsigmoid(logits).exp()[3].item() if with_margin else 0.0
    loss = asymmetric_loss(
        logits, torch.full((8,), target), gamma_pos=gamma, gamma_neg=gamma, margin=margin, reduction="none"
    )
    assert bool(loss.isfinite().all())
    assert bool(torch.autograd.grad(loss.sum(), logits)[0].isfinite().all())
