"""The loss averaged over confounders: its prior and its types. test_causal_loss.py has the literal equation."""

import math

import pytest
import torch

from causalcxr.losses import backdoor_loss, classification_loss
from reference.comparison import EXACT, normal

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3]], dtype=torch.float64)
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def test_each_image_may_have_a_prior_of_its_own() -> None:
    intervened, priors = normal(2, 4, 3), torch.stack([PRIOR, PRIOR.flip(0)])
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prior_may_be_rounded(dtype: torch.dtype) -> None:
    prior = torch.full((6,), 1 / 6).to(dtype)
    loss = backdoor_loss(torch.zeros(2, 6, 3), torch.ones(2, 3), prior=prior)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-2)


def test_average_stays_in_float32_under_autocast() -> None:
    intervened, targets, prior = normal(8, 300, 5).float(), torch.ones(8, 5), normal(300, seed=2).softmax(dim=0).float()
    expected = backdoor_loss(intervened, targets, prior=prior)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = backdoor_loss(intervened, targets, prior=prior)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
