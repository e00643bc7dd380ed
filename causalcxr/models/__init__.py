"""Models; importing this package registers them in timm's registry."""

from causalcxr.models import (
    causal_convnext,
    causal_densenet,
    causal_efficientnet,
    causal_resnet,
    causal_swin,
    causal_timm,
    causal_vit,
)
from causalcxr.models.causal_cxr import CausalCXR
from causalcxr.models.causal_head import CausalHead

__all__ = [
    "CausalCXR",
    "CausalHead",
    "causal_convnext",
    "causal_densenet",
    "causal_efficientnet",
    "causal_resnet",
    "causal_swin",
    "causal_timm",
    "causal_vit",
]
