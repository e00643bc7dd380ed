"""Causal classifiers on vision transformers.

Backbone: Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, from timm.

The tokens are laid out as a feature map, without the class token. Positions are resampled to the image, and an image
whose side is no multiple of the patch is padded.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


# The backbones' weights were trained on images scaled to [-1, 1].
HALF = (0.5, 0.5, 0.5)

default_cfgs = generate_default_cfgs(
    {
        "causal_vit_small_patch16.untrained": causal_cfg("patch_embed.proj", mean=HALF, std=HALF),
        "causal_vit_base_patch16.untrained": causal_cfg("patch_embed.proj", mean=HALF, std=HALF),
    }
)


def _create_causal_vit(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    backbone_args = {"dynamic_img_size": True, "dynamic_img_pad": True} | (kwargs.pop("backbone_args", None) or {})
    return build_causal_model(variant, pretrained, backbone_args=backbone_args, **kwargs)


@register_model
def causal_vit_small_patch16(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ViT-S/16 with the causal head."""
    return _create_causal_vit(
        "causal_vit_small_patch16", pretrained, **dict({"backbone": "vit_small_patch16_224"}, **kwargs)
    )


@register_model
def causal_vit_base_patch16(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """ViT-B/16 with the causal head."""
    return _create_causal_vit(
        "causal_vit_base_patch16", pretrained, **dict({"backbone": "vit_base_patch16_224"}, **kwargs)
    )
