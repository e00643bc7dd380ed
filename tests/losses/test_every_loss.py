"""What all losses promise: float32 inside, finite at any logit, true gradients, unknown labels without effect."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from causalcxr import CausalOutput
from causalcxr.losses import (
    AsymmetricLoss,
    CausalLoss,
    asymmetric_loss,
    backdoor_loss,
    backdoor_weights,
    classification_loss,
    uniform_kl_loss,
)
from reference.cases import CLASSIFICATION, LOSSES, NAN, TARGETS
from reference.comparison import EXACT, normal

UNKNOWN = TARGETS.isnan()
LOW = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_function(loss: str) -> None:
    assert torch.autograd.gradcheck(lambda logits: LOSSES[loss](logits, TARGETS), [2 * normal(3, 4).requires_grad_()])


@LOW
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss: str, dtype: torch.dtype) -> None:
    rounded = (3 * normal(3, 4)).to(dtype)
    given = LOSSES[loss](rounded, TARGETS.to(dtype))
    assert given.dtype == torch.float32
    expected = LOSSES[loss](rounded.double(), TARGETS.to(dtype).double())
    torch.testing.assert_close(given.double(), expected, rtol=2e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(LOSSES[loss](rounded.float(), TARGETS.to(dtype)), given, rtol=1e-6, atol=0)


@LOW
@pytest.mark.parametrize("size", [60.0, 1000.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(loss: str, size: float, dtype: torch.dtype) -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    logits = (size * signs).to(dtype).requires_grad_()
    value = LOSSES[loss](logits, TARGETS)
    assert bool(value.isfinite())
    assert bool(torch.autograd.grad(value, logits)[0].isfinite().all())


@LOW
@pytest.mark.parametrize(("loss", "slope"), [("cross-entropy", 1.0), ("backdoor", 0.3 * 1 + 0.7 * 2)])
def test_confident_mistakes_keep_their_gradient(loss: str, slope: float, dtype: torch.dtype) -> None:
    """The slope of cross-entropy at p = 0 for a positive label is -1, at p = 1 for a negative one 1."""
    logits = torch.tensor([[-60.0, 60.0]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[loss](logits, torch.tensor([[1.0, 0.0]])), logits)
    torch.testing.assert_close(gradient.float(), torch.tensor([[-slope, slope]]) / 2, rtol=1e-2, atol=0)


@pytest.mark.parametrize("other", [60.0, float("inf"), NAN])
@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_unknown_labels_have_no_effect(loss: str, other: float) -> None:
    logits = normal(3, 4).requires_grad_()
    changed = logits.detach().masked_fill(UNKNOWN, other).requires_grad_()
    value, changed_value = (CLASSIFICATION[loss](z, TARGETS) for z in (logits, changed))
    torch.testing.assert_close(value, changed_value, rtol=0, atol=0)
    (gradient,), (changed_gradient,) = torch.autograd.grad(value, logits), torch.autograd.grad(changed_value, changed)
    assert not gradient[UNKNOWN].any()
    torch.testing.assert_close(gradient, changed_gradient, rtol=0, atol=0)


@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_nothing_known_is_a_loss_of_zero(loss: str) -> None:
    logits = normal(3, 4).requires_grad_()
    value = CLASSIFICATION[loss](logits, torch.full_like(TARGETS, NAN))
    assert value.item() == 0
    assert not torch.autograd.grad(value, logits)[0].any()


@pytest.mark.parametrize("loss", [classification_loss, backdoor_loss])
def test_reductions_agree(loss: Callable[..., torch.Tensor]) -> None:
    logits = normal(3, 4) if loss is classification_loss else normal(3, 2, 4)
    each = loss(logits, TARGETS, reduction="none")
    assert not each[UNKNOWN].any()
    torch.testing.assert_close(loss(logits, TARGETS, reduction="sum"), each.sum(), **EXACT)
    torch.testing.assert_close(loss(logits, TARGETS), each.sum() / 10, **EXACT)


Z, Y, INTEGERS = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)
S, PAIRS = torch.zeros(2, dtype=torch.long), torch.zeros(2, 4, 3)  # strata, and logits with four confounders
OUTPUT = CausalOutput(Z[:, :1], Z[:, :1], PAIRS[..., :1], Z, Z, None)
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "target of -1": (lambda: classification_loss(Z, Y - 1), "from -1 to -1; write uncertain"),
    "target beyond 1": (lambda: asymmetric_loss(Z, Y + 1.5), r"must lie in \[0, 1\]"),
    "target of an intervention": (lambda: backdoor_loss(PAIRS, Y - 1), r"must lie in \[0, 1\]"),
    "other shape": (lambda: classification_loss(Z, Y[0]), "must have the same shape"),
    "no label": (lambda: classification_loss(Z[:, :0], Y[:, :0]), "at least one label"),
    "no label to be uniform": (lambda: uniform_kl_loss(Z[:, :0]), "at least one label"),
    "reduced already": (lambda: classification_loss(Z, Y, criterion=nn.BCEWithLogitsLoss()), 'reduction="none"'),
    "reduced by a function": (
        lambda: classification_loss(Z, Y, criterion=F.binary_cross_entropy_with_logits),
        'reduction="none"',
    ),
    "weight": (lambda: classification_loss(Z, Y, weight=torch.ones(2)), r"broadcast to the shape \(2, 3\)"),
    "reduction": (lambda: classification_loss(Z, Y, reduction="average"), "'sum', but got 'average'"),
    "reduction of uniform": (lambda: uniform_kl_loss(Z, reduction="batchmean"), "'sum', but got 'batchmean'"),
    "uniform": (lambda: uniform_kl_loss(Z, uniform="flat"), "'bernoulli', but got 'flat'"),
    "one label": (lambda: uniform_kl_loss(Z[:, :1]), 'with one label use uniform="bernoulli"'),
    "one label in the causal loss": (lambda: CausalLoss()(OUTPUT, Y[:, :1]), 'use uniform="bernoulli"'),
    "exponent": (lambda: asymmetric_loss(Z, Y, gamma_neg=-0.5), "0 or more"),
    "exponent that is not known": (lambda: asymmetric_loss(Z, Y, gamma_pos=NAN), "0 or more"),
    "margin": (lambda: asymmetric_loss(Z, Y, margin=1.0), r"margin in \[0, 1\)"),
    "prior": (lambda: backdoor_loss(PAIRS, Y, prior=torch.ones(1)), r"each of the 4 confounders .* got \(1,\)"),
    "prior of other images": (lambda: backdoor_loss(PAIRS, Y, prior=torch.ones(3, 4)), r"got \(3, 4\)"),
    "prior that adds up to more": (
        lambda: backdoor_loss(PAIRS, Y, prior=torch.ones(4)),
        "largest sum 4",
    ),
    "prior below 0": (lambda: backdoor_loss(PAIRS, Y, prior=torch.tensor([1.0, 1, -1, 0])), "lowest is -1"),
    "prior of counts for each image": (lambda: backdoor_loss(PAIRS, Y, prior=torch.eye(4)[:2] * 3), "sum 3"),
    "prior in a list": (lambda: backdoor_loss(PAIRS, Y, prior=[0.25] * 4), r"got \[0.25"),
    "logits of one confounder": (lambda: backdoor_loss(Z, Y), "intervened must have shape"),
    "targets of other images": (lambda: backdoor_loss(torch.zeros(5, 2, 3), Y), "targets must have shape"),
    "weight of a loss": (lambda: CausalLoss(-1.0, 0.5), "0 or more"),
    "weight that is not known": (lambda: CausalLoss(1.0, NAN), "0 or more"),
    "uniform of the causal loss": (lambda: CausalLoss(uniform="flat"), "'bernoulli', but got 'flat'"),
    "partners": (lambda: CausalLoss(partners="full"), "'random', but got 'full'"),
    "targets without images": (lambda: backdoor_weights(Y[0], S), "targets must have shape"),
    "strata of other images": (lambda: backdoor_weights(Y, torch.zeros(3).long()), "strata must have shape"),
    "targets between": (lambda: backdoor_weights(Y + 0.5, S), "must be 0, 1 or NaN"),
    "smoothing": (lambda: backdoor_weights(Y, S, smoothing=-1.0), "0 or more"),
    "endless smoothing": (lambda: backdoor_weights(Y, S, smoothing=float("inf")), "0 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification_loss(INTEGERS, Y), "logits must be"),
        (lambda: classification_loss([[0.0]], Y), "logits must be"),
        (lambda: uniform_kl_loss(INTEGERS), "logits must be"),
        (lambda: classification_loss(Z, INTEGERS), r"use targets.float\(\)"),
        (lambda: classification_loss(Z, [[0.0]]), "targets must be"),
        (lambda: backdoor_loss(PAIRS, INTEGERS), r"use targets.float\(\)"),
        (lambda: classification_loss(Z, Y, weight=2.0), "weight must be a tensor"),
        (lambda: CausalLoss(classification="bce"), "such as nn.BCEWithLogitsLoss"),
        (lambda: CausalLoss(classification=nn.BCEWithLogitsLoss), "such as nn.BCEWithLogitsLoss.*, but got <class"),
        (lambda: CausalLoss()(Z, Y), r"what model.forward_causal\(images\) returns"),
        (lambda: backdoor_weights(INTEGERS, S), "targets must be"),
        (lambda: backdoor_weights(Y, S.float()), "strata must be"),
        (lambda: backdoor_weights(Y, [0, 0]), "strata must be"),
    ],
)
def test_bad_types_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_modules_have_the_options_of_the_functions() -> None:
    settings = {"gamma_pos": 0.5, "gamma_neg": 2.0, "margin": 0.3, "reduction": "none"}
    logits, weight = normal(3, 4), normal(3, 4, seed=2).abs()
    for options in ({}, settings):
        torch.testing.assert_close(
            AsymmetricLoss(**options)(logits, TARGETS, weight=weight),
            asymmetric_loss(logits, TARGETS, weight=weight, **options),
            **EXACT,
        )
    assert (CausalLoss().alpha_conf, CausalLoss().alpha_bd) == (1.0, 0.5)
