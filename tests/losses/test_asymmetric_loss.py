"""The asymmetric loss against plain arithmetic, and where its powers and logarithms could fail."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from causalcxr.losses import AsymmetricLoss, asymmetric_loss, classification_loss
from reference.comparison import EXACT, normal
from reference.losses import asymmetric, known_mean

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64)
SETTINGS = [
    {"gamma_pos": 0.0, "gamma_neg": 4.0, "margin": 0.05},
    {"gamma_pos": 1.0, "gamma_neg": 4.0, "margin": 0.0},
    {"gamma_pos": 0.5, "gamma_neg": 0.5, "margin": 0.3},
    {"gamma_pos": 2.0, "gamma_neg": 0.0, "margin": 0.2},
    {"gamma_pos": 0.0, "gamma_neg": 0.0, "margin": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_the_reference(settings: dict[str, float], weighted: bool) -> None:
    logits, weight = 3 * normal(3, 3), normal(3, 3, seed=2).abs() if weighted else None
    expected = known_mean(
        logits.tolist(),
        TARGETS.tolist(),
        functools.partial(asymmetric, **settings),
        None if weight is None else weight.tolist(),
    )
    assert asymmetric_loss(logits, TARGETS, weight=weight, **settings).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_focus_and_margin_it_is_cross_entropy(reduction: str) -> None:
    logits = 10 * normal(3, 3)
    torch.testing.assert_close(
        asymmetric_loss(logits, TARGETS, gamma_pos=0, gamma_neg=0, margin=0, reduction=reduction),
        classification_loss(logits, TARGETS, reduction=reduction),
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


def test_focus_leaves_a_confident_mistake_its_full_gradient() -> None:
    """At p = 0 of a positive label (1 - p)^gamma is 1: the slope is that of cross-entropy, -1."""
    logits = torch.tensor([-60.0], requires_grad=True)
    loss = asymmetric_loss(logits, torch.ones(1), gamma_pos=3.0)
    assert loss.item() == pytest.approx(60)
    assert torch.autograd.grad(loss, logits)[0].item() == pytest.approx(-1)


def test_negatives_weigh_less_the_easier_they_are() -> None:
    logits, zeros = torch.tensor([-3.0, -1.0, 0.0, 1.0]), torch.zeros(4)
    share = asymmetric_loss(logits, zeros, margin=0, reduction="none") / classification_loss(
        logits, zeros, reduction="none"
    )
    torch.testing.assert_close(share, logits.sigmoid() ** 4)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_module_is_the_function(settings: dict[str, float], reduction: str) -> None:
    logits, weight = normal(3, 3), normal(3, 3, seed=2).abs()
    torch.testing.assert_close(
        AsymmetricLoss(**settings, reduction=reduction)(logits, TARGETS, weight=weight),
        asymmetric_loss(logits, TARGETS, weight=weight, reduction=reduction, **settings),
        **EXACT,
    )


def test_module_and_function_have_the_same_defaults() -> None:
    logits = normal(3, 3)
    torch.testing.assert_close(AsymmetricLoss()(logits, TARGETS), asymmetric_loss(logits, TARGETS), rtol=0, atol=0)


def test_repr_names_the_settings() -> None:
    assert repr(AsymmetricLoss(gamma_neg=2.0)) == "AsymmetricLoss(gamma_pos=0.0, gamma_neg=2.0, margin=0.05)"


@pytest.mark.parametrize(
    "settings",
    [{"gamma_pos": -1.0}, {"gamma_neg": -0.5}, {"gamma_neg": NAN}, {"margin": 1.0}, {"margin": -0.1}, {"margin": NAN}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be 0 or more and margin in \[0, 1\), but got -?[\d.n]"):
        asymmetric_loss(torch.zeros(1, 3), torch.zeros(1, 3), **settings)


def test_targets_outside_zero_and_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\]"):
        asymmetric_loss(torch.zeros(1, 1), -torch.ones(1, 1))
