"""Any timm model as a backbone that yields one feature map."""

import difflib
from pathlib import Path
from typing import Any

import timm
from timm.models import get_arch_name, model_entrypoint
from torch import Tensor, nn

__all__ = ["create_backbone", "feature_map"]


def create_backbone(
    name: str,
    *,
    in_chans: int = 3,
    output_stride: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained: bool | str | Path = False,
    backbone_args: dict[str, Any] | None = None,
) -> tuple[Any, int, int]:  # not Module, which has none of the methods of timm's models
    """Build a timm model without its pooling and classifier.

    Args:
        name: timm model name, with or without a tag.
        in_chans: Input channels.
        output_stride: Pixels of a cell of the feature map. Default: 16 where the backbone can be built so, else its
            own.
        drop_path_rate: Stochastic depth rate.
        pretrained: True for timm's published weights, or the path of a file with weights of this backbone.
        backbone_args: More arguments for the backbone's constructor.

    Returns:
        The backbone, the channels of its last feature map, and its stride.

    Raises:
        ValueError: If the name is unknown or one of ours, if the model yields no feature map, if the stride cannot be
            had or if the weights do not fit.
        FileNotFoundError: If there is no file of weights at that path.
    """
    _check_name(name)
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans, **(backbone_args or {})}
    if drop_path_rate:
        kwargs["drop_path_rate"] = drop_path_rate
    if pretrained is True:
        kwargs["pretrained"] = True
    elif pretrained:
        if not Path(pretrained).is_file():
            raise FileNotFoundError(f"no file of backbone weights at {pretrained}")
        kwargs |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(pretrained)}}
    try:
        backbone = _build(name, 16 if output_stride is None else output_stride, kwargs)
    except RuntimeError as error:
        if not pretrained:
            raise
        raise ValueError(
            f"weights {'of timm' if pretrained is True else pretrained} do not fit the backbone {name!r}: {error}"
        ) from error
    try:
        backbone.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise _no_feature_map(name) from error
    last = list(backbone.feature_info)[-1]
    if output_stride is not None and last["reduction"] != output_stride:
        raise ValueError(
            f"backbone {name!r} has a stride of {last['reduction']} pixels and cannot be built with "
            f"output_stride={output_stride}; leave output_stride out"
        )
    return backbone, last["num_chs"], last["reduction"]


def feature_map(backbone: Any, x: Tensor) -> Tensor:
    """Return the last feature map (B, C, H, W) of a backbone from `create_backbone`."""
    return backbone.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"backbone must be the name of a timm model, but got {type(name).__name__}")
    arch = get_arch_name(name)
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models(), n=4)
        hint = f"; close names: {', '.join(close)}" if close else "; timm.list_models() lists them"
        raise ValueError(f"unknown backbone {name!r}{hint}")
    if model_entrypoint(arch).__module__.startswith("causalcxr."):
        raise ValueError(
            f"backbone must be a timm model, but {name!r} is a causal model itself; build it by its own name"
        )


def _build(name: str, output_stride: int, kwargs: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, output_stride=output_stride, **kwargs)
    except (TypeError, NotImplementedError, AssertionError):
        # Not every constructor knows output_stride; a wrong argument of the caller fails again below.
        backbone = timm.create_model(name, **kwargs)
    if hasattr(getattr(backbone, "features", None), "denseblock4"):
        _dilate_densenet(backbone, output_stride)
    return backbone


def _dilate_densenet(backbone: Any, output_stride: int) -> None:
    """Trade the last poolings of a DenseNet for dilation, as `output_stride` does in timm's other families."""
    for native_stride, block in ((16, 3), (32, 4)):
        dilation = native_stride // output_stride
        if dilation > 1:
            getattr(backbone.features, f"transition{block - 1}").pool = nn.Identity()
            for layer in getattr(backbone.features, f"denseblock{block}").children():
                layer.conv2.dilation = layer.conv2.padding = (dilation, dilation)
            backbone.feature_info[block]["reduction"] = output_stride


def _no_feature_map(name: str) -> ValueError:
    return ValueError(
        f"backbone {name!r} yields no feature map (timm's forward_intermediates); "
        "use a convolutional network or a vision transformer such as 'resnet50' or 'vit_small_patch16_224'"
    )
