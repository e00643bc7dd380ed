"""Create and list the models of the library; the registry is timm's."""

import difflib
from pathlib import Path
from typing import Any

import timm
from timm.models import get_arch_name, get_arch_pretrained_cfgs, model_entrypoint, split_model_name_tag
from torch import nn

__all__ = ["create_model", "is_model", "list_models", "list_pretrained"]

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def create_model(name: str | Path, pretrained: bool | None = None, **kwargs: Any) -> nn.Module:
    """Create a model, with weights or without.

    `timm.create_model` builds the same models from the same names once `causalcxr` is imported. This function adds
    errors with the closest names, folders given as `Path`, and weights by default where the name says where they are.

    Args:
        name: Name in the registry with or without a tag, such as `"causal_resnet101"`;
            `"hf-hub:owner/repo[@revision]"`; `"local-dir:path"`; or a `Path` to a folder written by `save_pretrained`.
        pretrained: Whether to load weights. Default: yes for a hub, a folder or a `Path`, no for a name in the
            registry.
        **kwargs: Arguments of `causalcxr.CausalCXR`, such as `num_classes`, `in_chans`, `pretrained_backbone`.

    Returns:
        The model, in training mode as timm returns it.

    Raises:
        ValueError: If the name or its tag is unknown (the message has the closest ones), no weights are published for
            it, or weights do not fit.
        TypeError: If `name` is neither a string nor a path, or an argument is unknown.

    Example:
        >>> create_model("causal_test_resnet", num_classes=5).num_classes
        5
    """
    if isinstance(name, Path):
        name = f"local-dir:{name}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a string or a Path, but got {type(name).__name__}")
    if name.startswith(SOURCES):
        return timm.create_model(name, pretrained=pretrained is not False, **kwargs)
    if not is_model(name):
        raise _unknown_model(name)
    _check_tag(name)
    return timm.create_model(name, pretrained=bool(pretrained), **kwargs)


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Return the names of the library's models, sorted.

    Args:
        filter: A pattern with wildcards, such as `"*resnet*"`; empty for all.
        pretrained: Only models with published weights, with their tags.

    Example:
        >>> list_models("causal_resnet1*")
        ['causal_resnet18', 'causal_resnet101', 'causal_resnet152']
    """
    return [name for name in timm.list_models(filter, pretrained=pretrained) if is_model(name)]


def list_pretrained() -> list[str]:
    """Return the names with tags of all models whose weights are published."""
    return list_models(pretrained=True)


def is_model(name: str) -> bool:
    """Return whether `name`, with or without a tag, is a model of the library."""
    arch = get_arch_name(name) if isinstance(name, str) else ""
    return timm.is_model(arch) and model_entrypoint(arch).__module__.startswith("causalcxr.")


def _check_tag(name: str) -> None:
    arch, tag = split_model_name_tag(name)
    tags = [known.removeprefix(f"{arch}.") for known in get_arch_pretrained_cfgs(arch)]
    if tag and tag not in tags:
        raise ValueError(f"{arch!r} has no tag {tag!r}; its tags: {', '.join(tags)}")


def _unknown_model(name: str) -> ValueError:
    if timm.is_model(get_arch_name(name)):
        return ValueError(
            f"{name!r} is a model of timm, not a causal one; "
            f"create_model('causal_timm', backbone={name!r}) puts the causal head on it"
        )
    if "/" in name:
        return ValueError(
            f"unknown model {name!r}; write 'hf-hub:{name}' for the Hub or 'local-dir:{name}' for a folder"
        )
    close = difflib.get_close_matches(name, list_models(), n=4, cutoff=0.4)
    hint = f"close names: {', '.join(close)}" if close else "causalcxr.list_models() lists them"
    return ValueError(f"unknown model {name!r}; {hint}")
