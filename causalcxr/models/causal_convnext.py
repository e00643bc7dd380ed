"""Causal classifiers on ConvNeXt.

Backbone: Liu et al., *A ConvNet for the 2020s*, CVPR 2022, from timm.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


default_cfgs = generate_default_cfgs(
    {
        "causal_convnext_tiny.untrained": causal_cfg("stem.0"),
        "causal_convnext_small.untrained": causal_cfg("stem.0"),
        "causal_convnext_base.untrained": causal_cfg("stem.0"),
    }
)


def _create_causal_convnext(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    return build_causal_model(variant, pretrained, **kwargs)


@register_model
def causal_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ConvNeXt-T with the causal head."""
    return _create_causal_convnext("causal_convnext_tiny", pretrained, **dict({"backbone": "convnext_tiny"}, **kwargs))


@register_model
def causal_convnext_small(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ConvNeXt-S with the causal head."""
    return _create_causal_convnext(
        "causal_convnext_small", pretrained, **dict({"backbone": "convnext_small"}, **kwargs)
    )


@register_model
def causal_convnext_base(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ConvNeXt-B with the causal head."""
    return _create_causal_convnext("causal_convnext_base", pretrained, **dict({"backbone": "convnext_base"}, **kwargs))
