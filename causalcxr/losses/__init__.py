"""Losses, as functions of logits and as thin modules around them."""

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
