"""What every entry point of the registry does."""

import inspect
import logging
import textwrap
from typing import Any

from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor

from causalcxr._weights import check_source
from causalcxr.data.labels import NIH_LABELS
from causalcxr.models.causal_cxr import CausalCXR

__all__ = ["build_causal_model", "causal_cfg"]

_logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLASSIFIER = (
    "head.causal_classifier",
    "head.confounder_classifier",
    "head.intervention.classifier",
    "head.decoder.label_embed",
)
# Arguments that rebuild a model; the number of labels is known from the weights.
NOT_SAVED = ("num_classes", "pretrained_backbone", "device", "dtype")
ARCHITECTURE = inspect.signature(CausalCXR).parameters.keys() - NOT_SAVED


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

    Weights that are new, because the number of labels differs say, are named in a warning of the logger.

    Raises:
        ValueError: If `pretrained` is true and no weights are published for the model, or they do not fit.
        OSError: If they cannot be had, see `causalcxr.create_model`.
    """
    loaded: dict[str, Tensor] = {}
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        if not cfg.has_weights:
            raise no_weights_error(variant)
        checked = check_source(cfg, kwargs.get("cache_dir"))
        kwargs["pretrained_cfg_overlay"] = (kwargs.get("pretrained_cfg_overlay") or {}) | checked
        kwargs.pop("pretrained_backbone", None)  # the published weights hold the backbone's as well

    def check(state_dict: dict[str, Tensor], model: CausalCXR) -> dict[str, Tensor]:
        nonlocal loaded
        _check_weights(state_dict, model)
        loaded = state_dict  # timm drops from it what it does not load
        return state_dict

    try:
        model = build_model_with_cfg(
            CausalCXR,
            variant,
            pretrained,
            feature_cfg={"feature_cls": "getter", "out_indices": (-1,)},
            pretrained_filter_fn=check,
            **kwargs,
        )
    except RuntimeError as error:
        if not loaded:
            raise
        raise ValueError(f"weights do not fit {variant!r}: {textwrap.shorten(str(error), 400)}") from error
    model.model_args = {key: value for key, value in kwargs.items() if key in ARCHITECTURE}
    if isinstance(model, CausalCXR):  # not with features_only
        names = model.pretrained_cfg.get("label_names") or ()
        model.label_names = names if len(names) == model.num_classes > 0 else None
        if loaded:
            _report_new_weights(model, loaded)
    if in_chans := kwargs.get("in_chans"):  # `causalcxr.data.normalise` takes the number from the config
        model.pretrained_cfg["input_size"] = (in_chans, *model.pretrained_cfg["input_size"][1:])
    return model


def _report_new_weights(model: CausalCXR, loaded: dict[str, Tensor]) -> None:
    if new := [name for name in model.state_dict() if name not in loaded]:
        cfg = model.pretrained_cfg
        _logger.warning(
            "%d weights of %s are new, since it has %d labels and %d channels, the weights %d and %d; train them: %s",
            *(len(new), cfg["architecture"], model.num_classes, model.in_chans),
            *(cfg["num_classes"], cfg["input_size"][0], ", ".join(new)),
        )


def _check_weights(state_dict: dict[str, Tensor], model: CausalCXR) -> None:
    """Raise unless the weights are exactly the model's, but for labels and stem where these change.

    timm tolerates missing weights of any layer where the number of labels differs.
    """
    cfg, own = model.pretrained_cfg, model.state_dict()
    replaced = set()
    if model.num_classes != cfg["num_classes"]:
        replaced = {f"{name}.{kind}" for name in cfg["classifier"] for kind in ("weight", "bias")}
    stems = {f"{name}.weight" for name in cfg["first_conv"] or ()}
    problems = {
        "missing": own.keys() - state_dict.keys() - replaced,
        "unexpected": state_dict.keys() - own.keys() - replaced,
        "of another shape": {
            name
            for name in (own.keys() & state_dict.keys()) - replaced
            if _shape(name, own[name], stems) != _shape(name, state_dict[name], stems)
        },
    }
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {kind} ({min(names)}, ...)" for kind, names in problems.items() if names)
        raise ValueError(
            f"weights do not fit {cfg['architecture']!r}: {found}; give the arguments that they were trained with"
        )


def _shape(name: str, tensor: Tensor, stems: set[str]) -> tuple[int, ...]:
    """Return the shape of a weight, of a stem without its input channels, which timm adapts."""
    return tuple(tensor.shape[:1] + tensor.shape[2:] if name in stems else tensor.shape)


def no_weights_error(variant: str) -> ValueError:
    """Return the error for `pretrained=True` where there are no weights; it names the models that have some."""
    from causalcxr.factory import list_pretrained  # the factory imports the models

    return ValueError(
        f"no weights are published for {variant!r}; models with weights: {', '.join(list_pretrained())}. "
        "pretrained_backbone=True or a path loads weights of the backbone alone"
    )
