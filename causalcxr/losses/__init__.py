"""Losses: functions of logits first, thin modules over them."""

from causalcxr.losses.causal import AsymmetricLoss, CausalLoss
from causalcxr.losses.functional import (
    asymmetric_loss,
    backdoor_loss,
    classification_loss,
    uniform_kl_loss,
)
from causalcxr.losses.reweighting import backdoor_weights

__all__ = [
    "AsymmetricLoss",
    "CausalLoss",
    "asymmetric_loss",
    "backdoor_loss",
    "backdoor_weights",
    "classification_loss",
    "uniform_kl_loss",
]
