"""Causal classifiers on DenseNet.

Backbone: Huang et al., *Densely Connected Convolutional Networks*, CVPR 2017; CheXNet's backbone, from timm.

The last transition's pooling is traded for dilation, so that the stride is 16.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from causalcxr.models._builder import build_causal_model, causal_cfg
from causalcxr.models.causal_cxr import CausalCXR

__all__: list[str] = []


default_cfgs = generate_default_cfgs(
    {
        "causal_densenet121.untrained": causal_cfg("features.conv0"),
    }
)


def _create_causal_densenet(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    return build_causal_model(variant, pretrained, **kwargs)


@register_model
def causal_densenet121(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """DenseNet-121 with the causal head."""
    return _create_causal_densenet("causal_densenet121", pretrained, **dict({"backbone": "densenet121"}, **kwargs))
