"""The divergence from uniform against plain arithmetic; zero at uniform, and downhill leads there."""

import math

import pytest
import torch

from causalcxr.losses import uniform_kl_loss
from reference.comparison import EXACT, normal
from reference.losses import uniform_kl

FORMS = ["categorical", "bernoulli"]


@pytest.mark.parametrize("uniform", FORMS)
@pytest.mark.parametrize("shape", [(3, 2), (4, 5), (2, 3, 5)])
def test_loss_equals_the_reference(uniform: str, shape: tuple[int, ...]) -> None:
    logits = 3 * normal(*shape)
    rows = [uniform_kl(row, uniform=uniform) for row in logits.view(-1, shape[-1]).tolist()]
    given = uniform_kl_loss(logits, uniform=uniform, reduction="none")
    torch.testing.assert_close(given, torch.tensor(rows, dtype=torch.float64).view(shape[:-1]), **EXACT)
    torch.testing.assert_close(uniform_kl_loss(logits, uniform=uniform, reduction="sum"), given.sum(), **EXACT)
    torch.testing.assert_close(uniform_kl_loss(logits, uniform=uniform), given.mean(), **EXACT)


@pytest.mark.parametrize("level", [-1e4, -3.0, 0.0, 60.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_categorical_is_zero_for_equal_logits(level: float, dtype: torch.dtype) -> None:
    assert abs(uniform_kl_loss(torch.full((2, 14), level, dtype=dtype)).item()) < 4 * torch.finfo(dtype).eps


def test_bernoulli_is_zero_at_one_half_alone() -> None:
    assert abs(uniform_kl_loss(torch.zeros(2, 14), uniform="bernoulli").item()) < 2e-7
    assert uniform_kl_loss(torch.full((2, 14), 3.0), uniform="bernoulli").item() > 0.5


@pytest.mark.parametrize("uniform", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_loss_is_positive_away_from_uniform(uniform: str, seed: int) -> None:
    assert bool((uniform_kl_loss(0.1 * normal(20, 5, seed=seed), uniform=uniform, reduction="none") > 0).all())


def test_closed_form_values() -> None:
    """q = (3/4, 1/4): KL(u || q) = log(2 / sqrt 3); one label at p = 3/4 is the same distribution."""
    expected = math.log(2 / math.sqrt(3))
    two_labels = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    assert uniform_kl_loss(two_labels).item() == pytest.approx(expected, rel=1e-12)
    assert uniform_kl_loss(two_labels[:, :1], uniform="bernoulli").item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_the_prediction_minus_uniform() -> None:
    logits = normal(4, 5).requires_grad_()
    (categorical,) = torch.autograd.grad(uniform_kl_loss(logits, reduction="sum"), logits)
    (bernoulli,) = torch.autograd.grad(uniform_kl_loss(logits, uniform="bernoulli", reduction="sum"), logits)
    torch.testing.assert_close(categorical, (logits.softmax(dim=-1) - 1 / 5).detach(), **EXACT)
    torch.testing.assert_close(bernoulli, ((logits.sigmoid() - 1 / 2) / 5).detach(), **EXACT)


@pytest.mark.parametrize("uniform", FORMS)
def test_descent_leads_to_uniform(uniform: str) -> None:
    logits = normal(3, 4).requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(uniform_kl_loss(logits, uniform=uniform, reduction="sum"), logits)
        with torch.no_grad():
            logits -= 2 * gradient
    if uniform == "categorical":
        torch.testing.assert_close(logits.softmax(dim=-1), torch.full((3, 4), 0.25).double(), rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(logits.sigmoid(), torch.full((3, 4), 0.5).double(), rtol=0, atol=1e-6)


def test_categorical_form_of_one_label_is_refused() -> None:
    """It would be 0 with a gradient of 0, whatever the logits."""
    with pytest.raises(ValueError, match='with one label use uniform="bernoulli"'):
        uniform_kl_loss(torch.randn(4, 1))
    assert uniform_kl_loss(torch.ones(4, 1), uniform="bernoulli").item() > 0


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="uniform must be one of 'categorical', 'bernoulli', but got 'flat'"):
        uniform_kl_loss(torch.zeros(2, 3), uniform="flat")


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum', but got 'batchmean'"):
        uniform_kl_loss(torch.zeros(2, 3), reduction="batchmean")


def test_logits_need_a_label_axis() -> None:
    with pytest.raises(
        ValueError, match=r"logits must have shape \(\.\.\., K\) with at least one label, but got \(2, 0\)"
    ):
        uniform_kl_loss(torch.zeros(2, 0))


def test_logits_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, but got torch\.int64"):
        uniform_kl_loss(torch.zeros(2, 3, dtype=torch.long))
