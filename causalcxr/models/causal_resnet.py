"""Causal classifiers on ResNet.

Backbone: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016; the paper's backbone is ResNet-101, from
    timm.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


default_cfgs = generate_default_cfgs(
    {
        "causal_resnet18.untrained": causal_cfg("conv1"),
        "causal_resnet34.untrained": causal_cfg("conv1"),
        "causal_resnet50.untrained": causal_cfg("conv1"),
        "causal_resnet101.untrained": causal_cfg("conv1"),
        "causal_resnet152.untrained": causal_cfg("conv1"),
    }
)


def _create_causal_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    return build_causal_model(variant, pretrained, **kwargs)


@register_model
def causal_resnet18(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ResNet-18 with the causal head."""
    return _create_causal_resnet("causal_resnet18", pretrained, **dict({"backbone": "resnet18"}, **kwargs))


@register_model
def causal_resnet34(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ResNet-34 with the causal head."""
    return _create_causal_resnet("causal_resnet34", pretrained, **dict({"backbone": "resnet34"}, **kwargs))


@register_model
def causal_resnet50(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ResNet-50 with the causal head."""
    return _create_causal_resnet("causal_resnet50", pretrained, **dict({"backbone": "resnet50"}, **kwargs))


@register_model
def causal_resnet101(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ResNet-101, the paper's backbone with the causal head."""
    return _create_causal_resnet("causal_resnet101", pretrained, **dict({"backbone": "resnet101"}, **kwargs))


@register_model
def causal_resnet152(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ResNet-152 with the causal head."""
    return _create_causal_resnet("causal_resnet152", pretrained, **dict({"backbone": "resnet152"}, **kwargs))
