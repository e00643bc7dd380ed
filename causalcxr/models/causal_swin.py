"""Causal classifiers on Swin transformers.

Backbone: Liu et al., *Swin Transformer*, ICCV 2021, from timm.

The stride is 32, the backbone's own: its stages cannot be dilated.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


default_cfgs = generate_default_cfgs(
    {
        "causal_swin_tiny.untrained": causal_cfg("patch_embed.proj", pool_size=(16, 16)),
    }
)


def _create_causal_swin(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    backbone_args = {"strict_img_size": False} | (kwargs.pop("backbone_args", None) or {})
    return build_causal_model(variant, pretrained, backbone_args=backbone_args, **kwargs)


@register_model
def causal_swin_tiny(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """Swin-T with the causal head."""
    return _create_causal_swin(
        "causal_swin_tiny", pretrained, **dict({"backbone": "swin_tiny_patch4_window7_224"}, **kwargs)
    )
