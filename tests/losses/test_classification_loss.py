"""Masked binary cross-entropy against plain arithmetic and torch's own."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr.losses import classification_loss
from reference.comparison import EXACT, normal
from reference.losses import cross_entropy, known_mean

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3], [0.0, 0.0, 1.0], [NAN, NAN, NAN]], dtype=torch.float64)
KNOWN = ~TARGETS.isnan()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_the_reference(weighted: bool) -> None:
    logits, weight = normal(4, 3), normal(4, 3, seed=2).abs() if weighted else None
    expected = known_mean(logits.tolist(), TARGETS.tolist(), cross_entropy, None if weight is None else weight.tolist())
    assert classification_loss(logits, TARGETS, weight=weight).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_loss_with_all_labels_known_is_torchs(shape: tuple[int, ...], reduction: str) -> None:
    logits, targets, weight = normal(*shape), normal(*shape, seed=2).sigmoid(), normal(*shape, seed=3).abs()
    torch.testing.assert_close(
        classification_loss(logits, targets, weight=weight, reduction=reduction),
        F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction=reduction),
        **EXACT,
    )


def test_reductions_agree() -> None:
    logits = normal(4, 3)
    each = classification_loss(logits, TARGETS, reduction="none")
    assert each.shape == (4, 3)
    assert not each[~KNOWN].any()
    assert bool((each[KNOWN] > 0).all())
    torch.testing.assert_close(classification_loss(logits, TARGETS, reduction="sum"), each.sum(), **EXACT)
    torch.testing.assert_close(classification_loss(logits, TARGETS), each.sum() / 7, **EXACT)


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (0.0, 0.0, math.log(2)),
        (0.0, 0.3, math.log(2)),
        (math.log(3), 1.0, math.log(4 / 3)),
        (math.log(3), 0.0, math.log(4)),
    ],
)
def test_closed_form_values(logit: float, target: float, expected: float) -> None:
    loss = classification_loss(torch.tensor([logit], dtype=torch.float64), torch.tensor([target], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_probability_minus_target_over_the_known_labels() -> None:
    logits = normal(4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(classification_loss(logits, TARGETS), logits)
    expected = (logits.sigmoid() - TARGETS).detach().masked_fill(~KNOWN, 0) / 7
    torch.testing.assert_close(gradient, expected, **EXACT)


@pytest.mark.parametrize(
    "weight", [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([[0.5], [2.0], [1.0], [0.0]]), torch.tensor(3.0)]
)
def test_weight_broadcasts_and_does_not_enter_the_divisor(weight: Tensor) -> None:
    logits = normal(4, 3)
    each = classification_loss(logits, TARGETS, reduction="none")
    expected = (each * weight.double()).sum() / 7
    torch.testing.assert_close(classification_loss(logits, TARGETS, weight=weight), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_targets_may_have_another_type_than_the_logits(dtype: torch.dtype) -> None:
    logits, targets = normal(4, 3), (normal(4, 3, seed=2) > 0).double()
    torch.testing.assert_close(
        classification_loss(logits, targets.to(dtype)), classification_loss(logits, targets), **EXACT
    )


@pytest.mark.parametrize(("targets", "low", "high"), [([[-1.0, NAN, 1.0]], "-1", "1"), ([[0.0, 1.5, NAN]], "0", "1.5")])
def test_targets_outside_zero_and_one_are_refused(targets: list[list[float]], low: str, high: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"targets must lie in \[0, 1\], NaN for unknown, but reach from {low} to {high}; write uncertain",
    ):
        classification_loss(torch.zeros(1, 3), torch.tensor(targets))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must have the same shape, but got \(2, 3\) and \(3,\)"):
        classification_loss(torch.zeros(2, 3), torch.zeros(3))


@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_logits_need_a_label(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must have shape \(\.\.\., K\) with at least one label, but got \("):
        classification_loss(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize(("logits", "given"), [(torch.zeros(2, 3, dtype=torch.long), "torch.int64"), ([[0.0]], "list")])
def test_logits_must_be_floating_point(logits: object, given: str) -> None:
    with pytest.raises(TypeError, match=f"logits must be a floating-point tensor, but got {given}"):
        classification_loss(logits, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("targets", "given"), [(torch.zeros(2, 3, dtype=torch.long), "torch.int64"), ([[0.0]], "list")]
)
def test_targets_must_be_floating_point(targets: object, given: str) -> None:
    with pytest.raises(
        TypeError,
        match=rf"targets must be a floating-point tensor \(NaN for unknown\), but got {given}; use targets.float",
    ):
        classification_loss(torch.zeros(2, 3), targets)


@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits])
def test_loss_that_is_reduced_already_is_refused(criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r'of shape \(2, 3\), but has \(\); use reduction="none"'):
        classification_loss(torch.zeros(2, 3), torch.zeros(2, 3), criterion=criterion)


def test_weight_must_broadcast() -> None:
    with pytest.raises(ValueError, match=r"weight must broadcast to the shape \(2, 3\) of the labels, but got \(2,\)"):
        classification_loss(torch.zeros(2, 3), torch.zeros(2, 3), weight=torch.ones(2))


def test_weight_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match="weight must be a tensor, as from backdoor_weights, but got float"):
        classification_loss(torch.zeros(2, 3), torch.zeros(2, 3), weight=2.0)


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum', but got 'average'"):
        classification_loss(torch.zeros(2, 3), torch.zeros(2, 3), reduction="average")
