"""The model registry: one table, registered with timm.

A model is a timm backbone with the causal head. Its stride is 16 if the backbone supports it. Vision transformers
resample their position embeddings to the image and pad it to a multiple of the patch size. Swin keeps its stride of 32,
since its stages cannot be dilated.
"""

import dataclasses
import difflib
import logging
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_name,
    get_arch_pretrained_cfgs,
    get_model_input_config,
    get_pretrained_cfg,
    parse_model_name,
    register_model,
    resolve_pretrained_cfg,
    split_model_name_tag,
)
from torch import nn

from causalcxr import hub
from causalcxr.calibration import Calibration, calibrate
from causalcxr.data.labels import NIH_LABELS, check_label_names, checked_names
from causalcxr.models.backbone import check_backbone_name, check_feature_map
from causalcxr.models.causal_cxr import CausalCXR
from causalcxr.models.published import BACKBONES

__all__ = ["create_model", "is_model", "list_models", "list_pretrained"]

_logger = logging.getLogger(__name__)

VIT = {"backbone_args": {"dynamic_img_size": True, "dynamic_img_pad": True}}
SWIN = {"backbone_args": {"strict_img_size": False}}
# Name, timm backbone, and arguments of CausalCXR that differ from its defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal_resnet18": ("resnet18", {}),
    "causal_resnet34": ("resnet34", {}),
    "causal_resnet50": ("resnet50", {}),
    "causal_resnet101": ("resnet101", {}),  # used in the paper
    "causal_resnet152": ("resnet152", {}),
    "causal_densenet121": ("densenet121", {}),
    "causal_convnext_tiny": ("convnext_tiny", {}),
    "causal_convnext_small": ("convnext_small", {}),
    "causal_convnext_base": ("convnext_base", {}),
    "causal_efficientnet_lite0": ("tf_efficientnet_lite0", {"dim": 128}),
    "causal_efficientnetv2_s": ("tf_efficientnetv2_s", {}),
    "causal_vit_small_patch16": ("vit_small_patch16_224", VIT),
    "causal_vit_base_patch16": ("vit_base_patch16_224", VIT),
    "causal_swin_tiny": ("swin_tiny_patch4_window7_224", SWIN),
    "causal_test_resnet": ("test_resnet", {"dim": 64, "num_heads": 4}),  # 0.6 M parameters, for tests
    "causal_timm": ("", {}),  # any timm model, passed as `backbone`
}
# Weights by name and tag. `pretrained=True` loads the first tag of a name.
SHIPPED = Path(__file__).resolve().parents[1] / "weights"  # folders written by `save_pretrained`
WEIGHTS: dict[str, dict[str, Any]] = {
    "causal_efficientnet_lite0.nih11k": {
        "file": str(SHIPPED / "causal_efficientnet_lite0.nih11k" / hub.WEIGHTS),
        "input_size": (3, 192, 192),
        "label_names": list(NIH_LABELS),
        "license": "apache-2.0",
    },
}
IMAGE_SIZES = {"causal_test_resnet": (3, 96, 96)}
CLASSIFIER = (
    "head.causal_classifier",
    "head.confounder_classifier",
    "head.intervention.classifier",
    "head.decoder.label_embed",
)


def _of_backbone(name: str) -> dict[str, Any]:
    """Return the entries that a model inherits from the backbone's cfg: the normalisation and the name of the stem."""
    cfg = get_pretrained_cfg(name) or PretrainedCfg()
    stems = (cfg.first_conv,) if isinstance(cfg.first_conv, str) else cfg.first_conv or ()
    return {"mean": cfg.mean, "std": cfg.std, "first_conv": tuple(f"backbone.{stem}" for stem in stems)}


def _cfg(name: str, **weights: Any) -> dict[str, Any]:
    backbone, _ = MODELS[name]
    return {
        "num_classes": len(NIH_LABELS),
        "input_size": IMAGE_SIZES.get(name, (3, 512, 512)),
        "crop_pct": 1.0,
        "crop_mode": "squash",  # as `preprocess` does
        "interpolation": "bilinear",
        "classifier": CLASSIFIER,
        **(_of_backbone(backbone) if backbone else {"first_conv": ()}),
        **weights,
    }


default_cfgs = generate_default_cfgs(
    {name: _cfg(name.partition(".")[0], **weights) for name, weights in WEIGHTS.items()}
    | {f"{name}.untrained": _cfg(name) for name in MODELS}
)


def _build(name: str, pretrained: bool = False, **given: Any) -> nn.Module:
    """Build a model of the table, with weights if `pretrained`. Every entry point calls this function."""
    if given.get("feature_cls", "getter") != "getter":
        raise ValueError(f"feature_cls must be 'getter', which suits any backbone, but got {given['feature_cls']!r}")
    kwargs = _arguments(name, pretrained, given)
    overlay, num_classes = kwargs["pretrained_cfg_overlay"], kwargs.get("num_classes")
    if pretrained:
        cfg = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), overlay)
        if not cfg.has_weights:
            raise ValueError(
                f"no weights are published for {name!r}; models with weights: {', '.join(list_pretrained())}. "
                "In Python, pretrained_backbone=True, or a path, loads weights for the backbone only"
            )
        overlay |= {"file": str(hub.weights_file(cfg, kwargs.get("cache_dir"))), "source": None, "state_dict": None}
        kwargs |= {"num_classes": cfg.num_classes, "pretrained_backbone": False}  # the weights include the backbone
    features = {"feature_cls": "getter", "out_indices": None}  # all maps
    model = build_model_with_cfg(CausalCXR, name, pretrained, feature_cfg=features, **kwargs)
    if isinstance(model, CausalCXR):  # not with features_only
        _describe(model, pretrained, num_classes)
        if not MODELS[name][0]:
            check_feature_map(model, kwargs["backbone_args"].get("img_size"))
    else:
        model.model.head = nn.Identity()  # not needed for feature maps
    return model


def _arguments(name: str, pretrained: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model: those of the table, overridden by those given."""
    usual, defaults = MODELS[name]
    kwargs: dict[str, Any] = {"backbone": usual} | defaults | given
    saved = isinstance(given.get("pretrained_cfg"), dict)  # by `save_pretrained`, with its own normalisation
    published = BACKBONES.get(kwargs["backbone"])
    backbone_args = defaults.get("backbone_args", {})
    if published:
        weights = given.get("pretrained_backbone", not saved)
        if weights is True:
            weights = published.address
            if not weights.startswith("hf-hub:"):
                raise ValueError(
                    f"the weights of {published.name!r} are a pickle, {weights}, which is not loaded from there; "
                    "download it, save its state_dict() as safetensors and pass the path as pretrained_backbone, "
                    "or pass pretrained_backbone=False to start without weights"
                )
        kwargs |= {"backbone": published.architecture, "pretrained_backbone": weights}
        backbone_args = backbone_args | published.backbone_args
    kwargs["backbone_args"] = backbone_args = backbone_args | (given.get("backbone_args") or {})
    backbone, img_size = kwargs["backbone"], kwargs.pop("img_size", None)
    if not backbone:
        raise ValueError(f"{name} needs the name of a timm model, e.g. create_model({name!r}, backbone='resnet26d')")
    check_backbone_name(backbone)
    cfg = get_pretrained_cfg(backbone) or PretrainedCfg()
    overlay = _of_backbone(backbone) if backbone != usual or published else {}
    if saved:
        overlay = {"first_conv": overlay["first_conv"]} if overlay else {}
        overlay |= {} if pretrained else {"license": None}
    elif published:
        overlay |= {
            "input_size": (published.channels, published.pixels, published.pixels),
            "mean": (published.mean,) * published.channels,
            "std": (published.std,) * published.channels,
            "license": published.license if weights else None,
        }
    else:
        if overlay and cfg.fixed_input_size and not backbone_args.keys() & {"dynamic_img_size", "strict_img_size"}:
            overlay["input_size"] = cfg.input_size
        if not pretrained:  # the registered licence is for the registered weights
            overlay["license"] = cfg.license if kwargs.get("pretrained_backbone") is True else None
    if img_size is not None:
        backbone_args["img_size"] = img_size
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        channels = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg")).input_size[0]
        overlay["input_size"] = (channels, *sides)
    own = given.get("pretrained_cfg_overlay") or {}
    if "file" in own:  # weights other than the tag's
        overlay |= {"label_names": None, "license": None}
    kwargs["pretrained_cfg_overlay"] = overlay | own
    return kwargs


def _describe(model: Any, pretrained: bool, num_classes: int | None) -> None:
    """Complete a new model's cfg, label names and calibration, and change its number of labels if requested."""
    cfg, channels = model.pretrained_cfg, get_model_input_config(model)["input_size"][0]
    cfg["input_size"] = (channels, *cfg["input_size"][1:])
    for key in ("mean", "std"):
        if len(cfg[key]) != channels:
            cfg[key] = (sum(cfg[key]) / len(cfg[key]),) * channels
    model.label_names, model.calibration = cfg.get("label_names") if pretrained else None, None
    if pretrained and num_classes not in (None, model.num_classes):
        _new_labels(model, num_classes)
    elif pretrained and (folder := Path(cfg.get("file") or "").parent).parent == SHIPPED:
        saved, _, calibration = hub.read(f"local-dir:{folder}")
        _calibrate(model, saved, calibration)


def _new_labels(model: Any, num_classes: int, names: Sequence[str] = ()) -> None:
    """Change the labels of a model with loaded weights. Keep the rows of known labels, and warn of new weights."""
    known, calibration = model.label_names or (), model.calibration
    rows = {row: known.index(name) for row, name in enumerate(names) if name in known}
    before = dict(model.named_parameters())
    model.reset_classifier(num_classes)
    model.label_names = model.calibration = None
    new = {name: weight for name, weight in model.named_parameters() if before.get(name) is not weight}
    with torch.no_grad():
        for name, weight in new.items() if rows else ():
            weight[list(rows)] = before[name][list(rows.values())]
    if len(rows) == num_classes:
        if calibration:
            thresholds = tuple(calibration.thresholds[row] for row in rows.values())
            calibrate(model, dataclasses.replace(calibration, thresholds=thresholds))
        return
    hint = ""
    for name in names:
        if close := () if name in known else difflib.get_close_matches(name, known, n=1):
            hint += f"; {name!r} is not one of those, but {close[0]!r} is"
    if rows:
        hint += f"; the rows of {', '.join(names[row] for row in rows)} are kept"
    if new:
        _logger.warning(
            "%d weights of %s are newly initialised, since the checkpoint has other labels%s; train them: %s",
            *(len(new), model.pretrained_cfg["architecture"], hint, ", ".join(new)),
        )


def _register(name: str) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(name, pretrained, **kwargs)

    backbone = MODELS[name][0] or "Any timm model, passed as `backbone`,"
    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"{backbone} with the causal head."
    globals()[name] = register_model(entry_point)  # adds the name to __all__


for _name in MODELS:
    _register(_name)


def create_model(
    name: str | Path, pretrained: bool | None = None, *, label_names: Sequence[str] | None = None, **kwargs: Any
) -> Any:
    """Create a model, optionally with pretrained weights.

    Once `causalcxr` is imported, `timm.create_model` builds the same models. This function also suggests close names in
    its errors, accepts a `Path`, loads weights by default from a folder or repository, validates their contents and
    sets their calibration. It never runs code or opens pickles from a repository.

    A folder or repository may also hold a plain timm model. It is returned with `label_names` and `calibration` as
    attributes. Prepare its input with `causalcxr.data.preprocess(image, model.pretrained_cfg)`.

    If the labels differ from those of the weights, the label-dependent parameters are randomly initialised, and the
    logger `causalcxr` warns about them. Labels that the weights have keep their parameters and logits. If all labels
    are known, the calibration is kept too. For another `in_chans`, timm adapts the first layer.

    Args:
        name: Registered name with or without a tag, such as `"causal_resnet101"`; `"hf-hub:owner/repo[@revision]"`;
            `"local-dir:path"`; or the `Path` of a folder written by `save_pretrained`.
        pretrained: Whether to load weights. Default: True for the Hub or a folder, False for a registered name.
        label_names: Names of the labels in the order of your targets. They set `num_classes`. If they are exactly the
            labels of the weights, the order must be the same too.
        **kwargs: Arguments of `causalcxr.CausalCXR`, such as `num_classes`, `in_chans` or `pretrained_backbone`.
            `backbone` may also be a name from `list_backbones`. This loads its weights unless
            `pretrained_backbone=False`, and sets `pretrained_cfg` to the input that they expect. Also accepted:
            `img_size` for backbones built for one size; `features_only` and `out_indices`, as in timm, for the
            backbone's feature maps; `cache_dir`, the folder for downloads.

    Returns:
        The model, in training mode as in timm. `model.label_names` and `model.calibration` come from the weights. They
        are None if the weights have none or are not loaded.

    Raises:
        ValueError: If the name or tag is unknown (the message suggests close ones), it has no published weights,
            weights, labels or config do not fit, or weights are damaged.
        TypeError: If `name` is neither a string nor a path, or an argument is unknown.
        OSError: If a folder or file is missing, or the Hub cannot be reached. Errors of `huggingface_hub` pass through.

    Example:
        >>> create_model("causal_test_resnet", num_classes=5).num_classes
        5
    """
    if isinstance(name, Path):
        name = f"local-dir:{name}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a string or a Path, but got {type(name).__name__}")
    somewhere = name.startswith(hub.SOURCES)
    pretrained = somewhere if pretrained is None else bool(pretrained)
    if pretrained and kwargs.get("checkpoint_path"):
        raise ValueError("checkpoint_path would replace the pretrained weights; pass pretrained=False with it")
    if kwargs.get("features_only"):  # feature maps have no labels
        label_names = None
    if label_names is not None:
        label_names = checked_names(label_names, num_classes := kwargs.pop("num_classes", len(label_names)))
        if not pretrained:
            kwargs["num_classes"] = num_classes  # otherwise load the weights in full first
    if not somewhere:
        _check_name(name)
    try:
        model = _open(name, pretrained, kwargs) if somewhere else timm.create_model(name, pretrained, **kwargs)
    except (RuntimeError, AssertionError, AttributeError, LookupError, SafetensorError) as error:
        if not pretrained or not (somewhere or isinstance(error, RuntimeError | SafetensorError)):
            raise
        raise ValueError(
            f"weights do not fit {name!r}: {textwrap.shorten(str(error), 400)}; pass the arguments that they were "
            "trained with, or use an undamaged file"
        ) from error
    if label_names is not None:
        if model.num_classes != len(label_names) or set(label_names) != set(model.label_names or label_names):
            _new_labels(model, len(label_names), label_names)
        if model.label_names is not None:
            check_label_names(label_names, model.label_names)
        model.label_names = label_names
    return model


def _open(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """Build the model in a folder or repository, either one of the table or a plain timm model."""
    cfg, args, calibration = hub.read(name, kwargs.get("cache_dir"))
    architecture, arguments = cfg["architecture"], {**args, **kwargs, "pretrained_model_args": args}
    num_classes, plain = arguments.get("num_classes"), not is_model(architecture)
    if plain and pretrained:  # otherwise the entry point does this
        file = hub.weights_file(PretrainedCfg(**cfg), kwargs.get("cache_dir"))
        cfg |= {"file": str(file), "source": None}
        arguments["num_classes"] = cfg["num_classes"]
    model = timm.create_model(architecture, pretrained=pretrained, pretrained_cfg=cfg, **arguments)
    if kwargs.get("features_only"):
        return model
    if plain:
        _describe(model, pretrained, num_classes)
    if pretrained:
        _calibrate(model, cfg, calibration)
    return model


def _calibrate(model: Any, cfg: dict[str, Any], calibration: Calibration | None) -> None:
    """Set the calibration of the weights, unless the labels differ or other channels change the logits."""
    if calibration is None or model.num_classes != cfg["num_classes"]:
        return
    before, after = cfg["input_size"][0], model.pretrained_cfg["input_size"][0]
    # timm sums the weights of three channels for one. Logits stay the same if all channels are scaled alike.
    scaled_alike = len({*zip(cfg["mean"], cfg["std"], strict=True)}) == 1
    if before == after or ({before, after} == {1, 3} and scaled_alike):
        calibrate(model, calibration)
    else:
        _logger.warning("the calibration is left out because another number of channels changes the logits")


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Return the names of the library's models, sorted.

    Args:
        filter: Pattern with wildcards, such as `"*resnet*"`. Default: all.
        pretrained: Whether to list only models with published weights, with their tags.

    Example:
        >>> list_models("causal_resnet1*")
        ['causal_resnet18', 'causal_resnet101', 'causal_resnet152']
    """
    return [name for name in timm.list_models(filter, pretrained=pretrained) if is_model(name)]


def list_pretrained() -> list[str]:
    """Return the names, with tags, of all models with published weights."""
    return list_models(pretrained=True)


def is_model(name: str) -> bool:
    """Return whether `name`, with or without a tag, is a model of the library."""
    return isinstance(name, str) and get_arch_name(name) in MODELS


def _check_name(name: str) -> None:
    """Raise unless `name` is in the table, with a known tag or none."""
    if is_model(name):
        arch, tag = split_model_name_tag(name)
        tags = [known.removeprefix(f"{arch}.") for known in get_arch_pretrained_cfgs(arch)]
        if tag and tag not in tags:
            raise ValueError(f"{arch!r} has no tag {tag!r}; its tags: {', '.join(tags)}")
        return
    parse_model_name(name)  # raises for a repository or a path without its prefix
    if os.path.isdir(name):
        hint = f"to open the folder of this name, use create_model(Path({name!r})) or 'local-dir:{name}'"
    elif name in BACKBONES or timm.is_model(get_arch_name(name)):
        hint = f"it is a backbone; create_model('causal_timm', backbone={name!r}) adds the causal head"
    else:
        close = difflib.get_close_matches(name, list_models(), n=4, cutoff=0.4)
        hint = f"close names: {', '.join(close)}" if close else "see causalcxr.list_models()"
    raise ValueError(f"unknown model {name!r}; {hint}")
