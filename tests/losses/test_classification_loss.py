"""Masked binary cross-entropy against torch's own. test_causal_loss.py has the literal equations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from causalcxr.losses import classification_loss
from reference.comparison import EXACT, normal

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3], [0.0, 0.0, 1.0], [NAN, NAN, NAN]], dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_loss_with_all_labels_known_is_torchs(shape: tuple[int, ...], reduction: str) -> None:
    logits, targets, weight = normal(*shape), normal(*shape, seed=2).sigmoid(), normal(*shape, seed=3).abs()
    torch.testing.assert_close(
        classification_loss(logits, targets, weight=weight, reduction=reduction),
        F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction=reduction),
        **EXACT,
    )


@pytest.mark.parametrize(
    "weight", [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([[0.5], [2.0], [1.0], [0.0]]), torch.tensor(3.0)]
)
def test_weight_broadcasts_and_does_not_enter_the_divisor(weight: Tensor) -> None:
    logits = normal(4, 3)
    each = classification_loss(logits, TARGETS, reduction="none")
    expected = (each * weight.double()).sum() / 7
    torch.testing.assert_close(classification_loss(logits, TARGETS, weight=weight), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_targets_may_have_another_type_than_the_logits(dtype: torch.dtype) -> None:
    logits, targets = normal(4, 3), (normal(4, 3, seed=2) > 0).double()
    torch.testing.assert_close(
        classification_loss(logits, targets.to(dtype)), classification_loss(logits, targets), **EXACT
    )
