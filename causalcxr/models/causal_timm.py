"""Causal classifiers on any backbone of timm, and a tiny one for tests and demonstrations."""

from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model

from causalcxr.models._backbone import check_backbone_name, check_feature_map
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
    return build_causal_model(variant, pretrained, **kwargs)


def _cfg_of_backbone(name: str) -> dict[str, Any]:
    """Return what the cfg takes over from a backbone: the scale of its images and the name of its stem."""
    cfg = get_pretrained_cfg(name) or PretrainedCfg()
    stems = (cfg.first_conv,) if isinstance(cfg.first_conv, str) else cfg.first_conv or ()
    return {"mean": cfg.mean, "std": cfg.std, "first_conv": tuple(f"backbone.{stem}" for stem in stems)}


@register_model
def causal_timm(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """Causal head on `backbone="any timm name"`."""
    if "backbone" not in kwargs:
        raise ValueError(
            "causal_timm needs the name of a timm model, as create_model('causal_timm', backbone='resnet26d')"
        )
    check_backbone_name(kwargs["backbone"])
    if not pretrained:
        overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
        kwargs["pretrained_cfg_overlay"] = _cfg_of_backbone(kwargs["backbone"]) | overlay
    model = _create_causal_timm("causal_timm", pretrained, **kwargs)
    if isinstance(model, CausalCXR):  # not with features_only, where the head has nothing to do
        check_feature_map(
            model.backbone,
            kwargs["backbone"],
            in_chans=model.in_chans,
            in_chs=model.num_features,
            img_size=(kwargs.get("backbone_args") or {}).get("img_size"),
        )
    return model


@register_model
def causal_test_resnet(pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """A ResNet of 0.5 M parameters with a narrow causal head, for tests and demonstrations."""
    model_args = {"backbone": "test_resnet", "dim": 64, "num_heads": 4}
    return _create_causal_timm("causal_test_resnet", pretrained, **dict(model_args, **kwargs))
