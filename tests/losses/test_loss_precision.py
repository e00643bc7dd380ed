"""What all losses promise: float32 inside, finite at any logit, true gradients, unknown labels without effect."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from causalcxr.losses import asymmetric_loss, backdoor_loss, classification_loss, uniform_kl_loss
from reference.comparison import DEVICES, EXACT, normal

Loss = Callable[[Tensor, Tensor], Tensor]


def _backdoor(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits and twice the logits as predictions with two confounders."""
    intervened = torch.stack([logits, 2 * logits], dim=1)
    return backdoor_loss(intervened, targets, prior=torch.tensor([0.3, 0.7], device=logits.device))


CLASSIFICATION: dict[str, Loss] = {
    "cross-entropy": classification_loss,
    "asymmetric": asymmetric_loss,
    "asymmetric, small exponents": lambda z, y: asymmetric_loss(z, y, gamma_pos=0.5, gamma_neg=0.5, margin=0.1),
    "asymmetric, no margin": lambda z, y: asymmetric_loss(z, y, gamma_pos=1, gamma_neg=2, margin=0),
    "backdoor": _backdoor,
}
LOSSES: dict[str, Loss] = {
    **CLASSIFICATION,
    "uniform, categorical": lambda z, y: uniform_kl_loss(z),
    "uniform, bernoulli": lambda z, y: uniform_kl_loss(z, uniform="bernoulli"),
}
NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, 0.0, 0.3], [1.0, NAN, 0.0, NAN], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
UNKNOWN = TARGETS.isnan()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_function(loss: str) -> None:
    assert torch.autograd.gradcheck(lambda logits: LOSSES[loss](logits, TARGETS), [2 * normal(3, 4).requires_grad_()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss: str, dtype: torch.dtype, device: str) -> None:
    rounded = (3 * normal(3, 4)).to(dtype)
    given = LOSSES[loss](rounded.to(device), TARGETS.to(device, dtype)).cpu()
    assert given.dtype == torch.float32
    expected = LOSSES[loss](rounded.double(), TARGETS.to(dtype).double())
    torch.testing.assert_close(given.double(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [60.0, 1000.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(loss: str, size: float, dtype: torch.dtype) -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    logits = (size * signs).to(dtype).requires_grad_()
    value = LOSSES[loss](logits, TARGETS)
    assert bool(value.isfinite())
    assert bool(torch.autograd.grad(value, logits)[0].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["cross-entropy", "backdoor"])
def test_confident_mistakes_keep_their_gradient(loss: str, dtype: torch.dtype) -> None:
    """The slope of cross-entropy at p = 0 for a positive label is -1, at p = 1 for a negative one 1."""
    logits = torch.tensor([[-60.0, 60.0]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[loss](logits, torch.tensor([[1.0, 0.0]])), logits)
    slope = 1.0 if loss == "cross-entropy" else 0.3 * 1 + 0.7 * 2
    torch.testing.assert_close(gradient.float(), torch.tensor([[-slope, slope]]) / 2, rtol=1e-2, atol=0)


@pytest.mark.parametrize("other", [0.0, 60.0, -1000.0, float("inf"), NAN])
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


@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_loss_of_a_batch_is_the_mean_of_its_images_where_all_is_known(loss: str) -> None:
    logits, targets = normal(3, 4), TARGETS.nan_to_num(1.0)
    alone = [CLASSIFICATION[loss](logits[i : i + 1], targets[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(CLASSIFICATION[loss](logits, targets), torch.stack(alone).mean(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: str, dtype: torch.dtype) -> None:
    logits = normal(3, 4).float()
    with torch.autocast("cpu", dtype=dtype):
        given = LOSSES[loss](logits, TARGETS)
    torch.testing.assert_close(given, LOSSES[loss](logits, TARGETS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_grad_mode_stays_as_it_is(loss: str) -> None:
    logits = normal(3, 4).requires_grad_()
    assert LOSSES[loss](logits, TARGETS).requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not LOSSES[loss](logits, TARGETS).requires_grad
        assert not torch.is_grad_enabled()
