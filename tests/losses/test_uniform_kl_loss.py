"""The divergence from uniform against plain arithmetic; zero at uniform, and downhill leads there."""

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


@pytest.mark.parametrize("uniform", FORMS)
def test_descent_leads_to_uniform(uniform: str) -> None:
    logits = normal(3, 4).requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(uniform_kl_loss(logits, uniform=uniform, reduction="sum"), logits)
        with torch.no_grad():
            logits -= 2 * gradient
    found = logits.softmax(dim=-1) if uniform == "categorical" else logits.sigmoid()
    expected = torch.full_like(found, 0.25 if uniform == "categorical" else 0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
