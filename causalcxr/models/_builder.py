"""What every entry point of the registry does."""

from typing import Any

from timm.models import build_model_with_cfg, resolve_pretrained_cfg

from causalcxr.data.labels import NIH_LABELS
from causalcxr.models.causal_cxr import CausalCXR

__all__ = ["build_causal_model", "causal_cfg"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLASSIFIER = (
    "head.causal_classifier",
    "head.confounder_classifier",
    "head.intervention.classifier",
    "head.decoder.label_embed",
)
NOT_ARCHITECTURE = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_backbone", "device", "dtype")


def causal_cfg(first_conv: str | tuple[str, ...], **kwargs: Any) -> dict[str, Any]:
    """Return the pretrained cfg of a causal model; `first_conv` is the name of the stem within the backbone."""
    stems = (first_conv,) if isinstance(first_conv, str) else first_conv
    return {
        "num_classes": len(NIH_LABELS),
        "label_names": list(NIH_LABELS),
        "input_size": (3, 512, 512),
        "pool_size": (32, 32),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": tuple(f"backbone.{stem}" for stem in stems),
        "classifier": CLASSIFIER,
        "license": "apache-2.0",
        **kwargs,
    }


def build_causal_model(variant: str, pretrained: bool = False, **kwargs: Any) -> CausalCXR:
    """Build a registered model, load its weights where asked for, and note the arguments that rebuild it.

    Raises:
        ValueError: If `pretrained` is true and no weights are published for the model.
    """
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        if not cfg.has_weights:
            raise no_weights_error(variant)
        kwargs.pop("pretrained_backbone", None)  # the published weights hold the backbone's as well
    model = build_model_with_cfg(
        CausalCXR,
        variant,
        pretrained,
        feature_cfg={"feature_cls": "getter", "out_indices": (-1,)},
        **kwargs,
    )
    model.model_args = {key: value for key, value in kwargs.items() if key not in NOT_ARCHITECTURE}
    return model


def no_weights_error(variant: str) -> ValueError:
    """Return the error for `pretrained=True` where there are no weights; it names the models that have some."""
    from causalcxr.factory import list_pretrained  # the factory imports the models

    return ValueError(
        f"no weights are published for {variant!r}; models with weights: {', '.join(list_pretrained()) or 'none yet'}. "
        "pretrained_backbone=True or a path loads weights of the backbone alone"
    )
