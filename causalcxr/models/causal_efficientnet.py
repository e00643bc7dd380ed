"""Causal classifiers on EfficientNet.

Backbone: Tan and Le, *EfficientNet*, ICML 2019 and *EfficientNetV2*, ICML 2021, in the variants that TensorFlow's
weights belong to, from timm.
"""

from pathlib import Path
from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


# The backbones' weights were trained on images scaled to [-1, 1].
HALF = (0.5, 0.5, 0.5)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"

default_cfgs = generate_default_cfgs(
    {
        # NIH ChestX-ray14, 10,000 images enlarged from 128 to 192 px; manifest and model card are beside the file.
        "causal_efficientnet_lite0.nih10k": causal_cfg(
            "conv_stem",
            mean=HALF,
            std=HALF,
            input_size=(3, 192, 192),
            pool_size=(12, 12),
            file=str(WEIGHTS / "causal_efficientnet_lite0.nih10k.safetensors"),
        ),
        "causal_efficientnet_lite0.untrained": causal_cfg("conv_stem", mean=HALF, std=HALF),
        "causal_efficientnetv2_s.untrained": causal_cfg("conv_stem", mean=HALF, std=HALF),
    }
)


def _create_causal_efficientnet(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    return build_causal_model(variant, pretrained, **kwargs)


@register_model
def causal_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """EfficientNet-Lite0 with a causal head of width 128, in proportion to the small backbone."""
    return _create_causal_efficientnet(
        "causal_efficientnet_lite0", pretrained, **dict({"backbone": "tf_efficientnet_lite0", "dim": 128}, **kwargs)
    )


@register_model
def causal_efficientnetv2_s(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """EfficientNetV2-S with the causal head."""
    return _create_causal_efficientnet(
        "causal_efficientnetv2_s", pretrained, **dict({"backbone": "tf_efficientnetv2_s"}, **kwargs)
    )
