"""Models. Importing this package registers them with timm."""

from causalcxr.models.causal_cxr import CausalCXR
from causalcxr.models.causal_head import CausalHead
from causalcxr.models.published import PublishedBackbone, list_backbones
from causalcxr.models.registry import create_model, is_model, list_models, list_pretrained

__all__ = [
    "CausalCXR",
    "CausalHead",
    "PublishedBackbone",
    "create_model",
    "is_model",
    "list_backbones",
    "list_models",
    "list_pretrained",
]
