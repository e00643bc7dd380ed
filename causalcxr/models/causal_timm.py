"""Causal classifiers on any backbone of timm, and a tiny one for tests and demonstrations."""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


default_cfgs = generate_default_cfgs(
    {
        "causal_timm.untrained": causal_cfg(()),
        "causal_test_resnet.untrained": causal_cfg(
            "conv1.0", input_size=(3, 96, 96), pool_size=(6, 6), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
    }
)


def _create_causal_timm(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    model = build_causal_model(variant, pretrained, **kwargs)
    if not pretrained:  # images are scaled as the backbone's own weights expect them
        backbone_cfg = model.backbone.pretrained_cfg
        model.pretrained_cfg |= {key: backbone_cfg[key] for key in ("mean", "std")}
    return model


@register_model
def causal_timm(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """Causal head on `backbone="any timm name"`."""
    if "backbone" not in kwargs:
        raise ValueError(
            "causal_timm needs the name of a timm model, as create_model('causal_timm', backbone='resnet26d')"
        )
    return _create_causal_timm("causal_timm", pretrained, **kwargs)


@register_model
def causal_test_resnet(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """A ResNet of 0.5 M parameters with a narrow causal head, for tests and demonstrations."""
    model_args = {"backbone": "test_resnet", "dim": 64, "num_heads": 4}
    return _create_causal_timm("causal_test_resnet", pretrained, **dict(model_args, **kwargs))
