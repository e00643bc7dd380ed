"""Build any timm model as a backbone that returns one feature map."""

import copy
import difflib
import logging
import textwrap
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_arch_name, get_pretrained_cfg, model_entrypoint
from torch import Tensor, nn

from causalcxr.models.layouts import as_timm
from causalcxr.models.pretrained import find_weights, read_weights
from causalcxr.models.published import BACKBONES

__all__ = ["check_backbone_name", "check_feature_map", "create_backbone", "feature_map"]

_logger = logging.getLogger(__name__)


def create_backbone(
    name: str,
    *,
    in_chans: int = 3,
    output_stride: int | None = None,
    drop_path_rate: float | None = None,
    pretrained: bool | str | Path = False,
    backbone_args: dict[str, Any] | None = None,
) -> tuple[Any, int, int]:  # Any, since Module lacks the methods of timm's models
    """Build a timm model without its pooling and classifier.

    The arguments are those of `causalcxr.CausalCXR`. Weights that the backbone does not use, such as a classifier, are
    skipped and logged.

    Returns:
        The backbone, the number of channels of its last feature map, and its stride.
    """
    check_backbone_name(name)
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans, **(backbone_args or {})}
    if drop_path_rate is not None:
        kwargs["drop_path_rate"] = drop_path_rate
    if pretrained is True:
        kwargs["pretrained"] = True
    elif pretrained:
        kwargs |= _weights_from(pretrained, name)
    try:
        backbone = _build(name, 16 if output_stride is None else output_stride, kwargs)
    except (RuntimeError, AttributeError, KeyError) as error:  # the last two for unexpected names
        if not pretrained:
            raise
        raise ValueError(
            f"weights {'from timm' if pretrained is True else pretrained} do not fit the backbone {name!r}: "
            + textwrap.shorten(str(error), 400)
        ) from error
    if read := backbone.pretrained_cfg.pop("state_dict", None):  # drop the second copy of the weights
        _logger.info("loaded %d weights from %s into %s; none is missing", len(read), pretrained, name)
    try:
        backbone.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise _no_feature_map(name, str(error)) from error
    last = list(backbone.feature_info)[-1]
    if output_stride is not None and last["reduction"] != output_stride:
        raise ValueError(
            f"backbone {name!r} has a stride of {last['reduction']} pixels and cannot be built with "
            f"output_stride={output_stride}; leave output_stride out"
        )
    return backbone, _channels(last), last["reduction"]


def _channels(last: dict[str, Any]) -> int:
    """Return the channels of the last map, after the final norm if it projects."""
    return int(last.get("num_chs_norm", last["num_chs"]))


def feature_map(backbone: Any, x: Tensor) -> Tensor:
    """Return the last feature map (B, C, H, W) of a backbone from `create_backbone`."""
    return backbone.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]


def check_feature_map(model: Any, img_size: Any = None) -> None:
    """Check that a model's backbone returns the map it declares, and freeze the parameters that the map does not use.

    A copy runs on the meta device, so nothing is computed. `DistributedDataParallel` fails on parameters that never
    receive a gradient, such as those of unused outputs.
    """
    name, in_chs = model.backbone.pretrained_cfg["architecture"], _channels(list(model.backbone.feature_info)[-1])
    twin = copy.deepcopy(model.backbone).to("meta")
    size = img_size or model.backbone.pretrained_cfg["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with torch.device("meta"), torch.enable_grad():
            features = feature_map(twin, next(twin.parameters()).new_empty(2, model.in_chans, height, width))
    except (AssertionError, AttributeError, RuntimeError) as error:  # the last for images that do not suit it
        raise _no_feature_map(name, f"on images {(2, model.in_chans, height, width)}, {error}") from error
    if features.ndim != 4 or features.shape[1] != in_chs:
        raise _no_feature_map(name, f"shape {tuple(features.shape)} instead of (B, {in_chs}, H, W)")
    features.sum().backward()
    for parameter, copied in zip(model.backbone.parameters(), twin.parameters(), strict=True):
        if copied.grad is None:
            parameter.requires_grad_(False)


def _weights_from(source: str | Path, name: str) -> dict[str, Any]:
    """Return the arguments that make timm load weights from a file, strictly, into a backbone without classifier."""
    cfg = get_pretrained_cfg(name) or PretrainedCfg()
    stem = cfg.first_conv if isinstance(cfg.first_conv, str) else (cfg.first_conv or [""])[0]
    heads = (cfg.classifier,) if isinstance(cfg.classifier, str) else cfg.classifier or ()
    state_dict, left = as_timm(read_weights(find_weights(source)), stem, heads)
    if left:
        _logger.info("skipped %d weights from %s not used by %s: %s", len(left), source, name, ", ".join(left))
    weight = state_dict.get(f"{stem}.weight")
    grey = weight is not None and weight.ndim == 4 and weight.shape[1] == 1
    images = (1, *cfg.input_size[1:]) if grey else cfg.input_size
    # timm ignores missing weights of any layer if the numbers of classes differ, so make them equal.
    unclassified = {"num_classes": 0, "classifier": None, "custom_load": False}
    return {
        "pretrained": True,
        "pretrained_cfg_overlay": {**unclassified, "state_dict": state_dict, "input_size": images},
    }


def check_backbone_name(name: str) -> None:
    """Raise unless `name` is a timm model and not a causal one."""
    if not isinstance(name, str):
        raise TypeError(f"backbone must be the name of a timm model, but got {type(name).__name__}")
    arch = get_arch_name(name)
    if name in BACKBONES:
        raise ValueError(
            f"only create_model knows the weights of {name!r}; use create_model('causal_timm', backbone={name!r})"
        )
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, [*BACKBONES, *timm.list_models(exclude_filters="causal_*")], n=4)
        hint = f"; close names: {', '.join(close)}" if close else "; see timm.list_models()"
        raise ValueError(f"unknown backbone {name!r}{hint}")
    if model_entrypoint(arch).__module__.startswith("causalcxr."):
        raise ValueError(
            f"backbone must be a timm model, but {name!r} is a causal model itself; pass its name to create_model"
        )


def _build(name: str, output_stride: int, kwargs: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, output_stride=output_stride, **kwargs)
    except (TypeError, NotImplementedError, AssertionError):
        # Not every constructor accepts output_stride. An invalid argument from the caller fails again below.
        backbone = timm.create_model(name, **kwargs)
    if hasattr(getattr(backbone, "features", None), "denseblock4"):
        _dilate_densenet(backbone, output_stride)
    return backbone


def _dilate_densenet(backbone: Any, output_stride: int) -> None:
    """Replace the last pooling layers of a DenseNet with dilation, as `output_stride` does in other timm models."""
    if output_stride not in (8, 16):
        return
    for native_stride, block in ((16, 3), (32, 4)):
        dilation = native_stride // output_stride
        if dilation > 1:
            getattr(backbone.features, f"transition{block - 1}").pool = nn.Identity()
            for layer in getattr(backbone.features, f"denseblock{block}").children():
                layer.conv2.dilation = layer.conv2.padding = (dilation, dilation)
            backbone.feature_info[block]["reduction"] = output_stride


def _no_feature_map(name: str, reason: str) -> ValueError:
    return ValueError(
        f"backbone {name!r} yields no feature map: {textwrap.shorten(reason, 200)}; "
        "use a convolutional network or a vision transformer such as 'resnet50' or 'vit_small_patch16_224'"
    )
