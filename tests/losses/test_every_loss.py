"""The contract of all losses: float32 inside, finite at any logit, correct gradients, no effect of unknown labels."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from causalcxr.losses import (
    CausalLoss,
    asymmetric_loss,
    backdoor_loss,
    backdoor_weights,
    classification_loss,
    uniform_kl_loss,
)
from reference.cases import CLASSIFICATION, LOSSES, NAN, TARGETS
from reference.comparison import DEVICES, LOOSE, normal, relative_error


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_function(loss):
    assert torch.autograd.gradcheck(lambda logits: LOSSES[loss](logits, TARGETS), [2 * normal(3, 4).requires_grad_()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOOSE, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss, dtype, device):
    rounded, targets = (3 * normal(3, 4)).to(dtype), TARGETS.to(dtype)
    exact, logits = rounded.double().requires_grad_(), rounded.to(device).requires_grad_()
    expected, given = LOSSES[loss](exact, targets.double()), LOSSES[loss](logits, targets.to(device))
    slopes = torch.autograd.grad(given, logits)[0], torch.autograd.grad(expected, exact)[0]
    assert given.dtype == torch.promote_types(dtype, torch.float32)
    assert relative_error(given, expected) < min(LOOSE[dtype], 2e-6 if device == "cpu" else 1e-5)
    assert relative_error(*slopes) < LOOSE[dtype]
    with torch.autocast(device, dtype=torch.bfloat16):
        again = LOSSES[loss](logits.to(given.dtype), targets.to(device))
    torch.testing.assert_close(again, given, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_each_sample_and_shapes_without_values(loss):
    logits, of_one = normal(3, 4), torch.func.grad(lambda z, y: LOSSES[loss](z[None], y[None]))
    one_by_one = [of_one(z, y) for z, y in zip(logits, TARGETS, strict=True)]
    torch.testing.assert_close(torch.func.vmap(of_one)(logits, TARGETS), torch.stack(one_by_one))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert LOSSES[loss](torch.empty(3, 4), torch.empty(3, 4)).shape == ()


@pytest.mark.parametrize("size", [60.0, 1000.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(loss, size):
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    logits = (size * signs).requires_grad_()
    value = LOSSES[loss](logits, TARGETS)
    assert bool(value.isfinite())
    assert bool(torch.autograd.grad(value, logits)[0].isfinite().all())


@pytest.mark.parametrize("loss", ["cross-entropy", "asymmetric, no margin"])
def test_confident_mistakes_keep_their_gradient(loss):
    """Cross-entropy has slope -1 at p = 0 for a positive label and 1 at p = 1 for a negative one. Focus keeps both."""
    logits = torch.tensor([[-60.0, 60.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[loss](logits, torch.tensor([[1.0, 0.0]])), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, 0.5]]))


@pytest.mark.parametrize("other", [float("inf"), NAN])
@pytest.mark.parametrize("targets", [TARGETS, torch.full_like(TARGETS, NAN)], ids=["some known", "none known"])
@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_unknown_labels_have_no_effect(loss, targets, other):
    logits, unknown = normal(3, 4), targets.isnan()
    results = []
    for z in (logits, logits.masked_fill(unknown, other)):
        value = CLASSIFICATION[loss](z.requires_grad_(), targets)
        (gradient,) = torch.autograd.grad(value, z)
        assert not gradient[unknown].any()
        results.append((value, gradient))
    torch.testing.assert_close(*results, rtol=0, atol=0)


Z, Y, INTEGERS = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)
S, PAIRS = torch.zeros(2, dtype=torch.long), torch.zeros(2, 4, 3)  # strata, and logits with four confounders
BAD = [
    (lambda: classification_loss(INTEGERS, Y), TypeError, "logits must"),
    (lambda: classification_loss(Z, INTEGERS), TypeError, r"targets.float\(\)"),
    (lambda: classification_loss(Z, Y - 1), ValueError, "from -1 to -1; replace uncertain"),
    (lambda: classification_loss(Z, Y[0]), ValueError, "same shape"),
    (lambda: classification_loss(Z, Y, criterion=nn.BCEWithLogitsLoss()), ValueError, 'reduction="none"'),
    (lambda: classification_loss(Z, Y, weight=[1.0, 1.0, 1.0]), TypeError, "weight must"),
    (lambda: classification_loss(Z, Y, weight=torch.ones(3)), ValueError, r"weight\[:, None\]"),
    (lambda: classification_loss(Z[:1], Y[:1], weight=torch.ones(2, 3)), RuntimeError, "must match"),
    (lambda: classification_loss(Z, Y, reduction="average"), ValueError, "'sum', but got 'average'"),
    (lambda: asymmetric_loss(Z, Y + 1.5), ValueError, "from 1.5 to 1.5"),
    (lambda: asymmetric_loss(Z, Y, gamma_neg=-0.5), ValueError, "0 or more"),
    (lambda: asymmetric_loss(Z, Y, gamma_pos=NAN), ValueError, "0 or more"),
    (lambda: asymmetric_loss(Z, Y, margin=1.0), ValueError, "margin"),
    (lambda: uniform_kl_loss(Z[:, :0]), ValueError, "at least one label"),
    (lambda: uniform_kl_loss(Z[:, :1]), ValueError, 'use uniform="bernoulli"'),
    (lambda: uniform_kl_loss(Z, reduction="batchmean"), ValueError, "'sum', but got 'batchmean'"),
    (lambda: uniform_kl_loss(Z, uniform="flat"), ValueError, "'bernoulli', but got 'flat'"),
    (lambda: backdoor_loss(Z, Y), ValueError, "intervened must"),
    (lambda: backdoor_loss(torch.zeros(5, 2, 3), Y), ValueError, "targets must have shape"),
    (lambda: backdoor_loss(PAIRS, Y, prior=[0.25] * 4), TypeError, "prior must"),
    (lambda: backdoor_loss(PAIRS, Y, prior=torch.ones(1)), ValueError, r"each of the 4 confounders .* got \(1,\)"),
    (lambda: backdoor_loss(PAIRS, Y, prior=torch.ones(4)), ValueError, r"sum \[4.0"),
    (lambda: backdoor_loss(PAIRS, Y, prior=torch.tensor([1.0, 1, -1, 0])), ValueError, "lowest is -1"),
    (lambda: CausalLoss(-1.0, 0.5), ValueError, "0 or more"),
    (lambda: CausalLoss(1.0, NAN), ValueError, "0 or more"),
    (lambda: CausalLoss(classification="bce"), TypeError, "such as nn.BCEWithLogitsLoss"),
    (lambda: CausalLoss(classification=nn.BCEWithLogitsLoss), TypeError, "but got <class"),
    (lambda: CausalLoss(uniform="flat"), ValueError, "'bernoulli', but got 'flat'"),
    (lambda: CausalLoss(partners="full"), ValueError, "'random', but got 'full'"),
    (lambda: CausalLoss()(Z, Y), TypeError, "forward_causal"),
    (lambda: backdoor_weights(Y[0], S), ValueError, "targets must"),
    (lambda: backdoor_weights(Y + 0.5, S), ValueError, "0, 1 or NaN"),
    (lambda: backdoor_weights(Y, torch.zeros(3).long()), ValueError, "strata must"),
    (lambda: backdoor_weights(Y, S.float()), TypeError, "strata must"),
    (lambda: backdoor_weights(Y, S.numpy()), TypeError, "ndarray; pass torch.as_tensor"),
    (lambda: backdoor_weights(Y, S, smoothing=-1.0), ValueError, "0 or more"),
    (lambda: backdoor_weights(Y, S, smoothing=float("inf")), ValueError, "0 or more"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
