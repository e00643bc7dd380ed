"""Create and list the models of the library; the registry is timm's."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import (
    get_arch_name,
    get_arch_pretrained_cfgs,
    model_entrypoint,
    parse_model_name,
    split_model_name_tag,
)
from torch import nn

from causalcxr._config import CONFIG, check_config, read_config
from causalcxr._download import download
from causalcxr.calibration import Calibration
from causalcxr.data.labels import check_label_names
from causalcxr.models import CausalCXR

__all__ = ["create_model", "is_model", "list_models", "list_pretrained"]

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
SHIPPED = Path(__file__).resolve().parent / "weights"  # each with a manifest beside it


def create_model(
    name: str | Path, pretrained: bool | None = None, *, label_names: Sequence[str] | None = None, **kwargs: Any
) -> nn.Module:
    """Create a model, with weights or without.

    `timm.create_model` builds the same models from the same names once `causalcxr` is imported. This function adds
    errors with the closest names, folders given as `Path`, weights by default where the name says where they are, and
    checks of what is in a folder or a repository. Code in a repository is never run, and pickles are never opened.

    With another number of labels than the weights have, the parts that depend on it are new, and named in a warning of
    the logger `causalcxr`; with other `in_chans`, the stem is adapted as timm does.

    Args:
        name: Name in the registry with or without a tag, such as `"causal_resnet101"`;
            `"hf-hub:owner/repo[@revision]"`; `"local-dir:path"`; or a `Path` to a folder written by `save_pretrained`.
        pretrained: Whether to load weights. Default: yes for a hub, a folder or a `Path`, no for a name in the
            registry.
        label_names: Names of the labels in the order of your targets. They must be those of the weights, if these have
            names and the labels are not new.
        **kwargs: Arguments of `causalcxr.CausalCXR`, such as `num_classes`, `in_chans`, `pretrained_backbone`, and
            `cache_dir`, the folder of downloads.

    Returns:
        The model, in training mode as timm returns it. `model.label_names` are the names of its labels and
        `model.calibration` makes probabilities and findings of its logits, where the weights came with these.

    Raises:
        ValueError: If the name or its tag is unknown (the message has the closest ones), no weights are published for
            it, weights, labels or the config do not fit, or weights are damaged or a pickle.
        TypeError: If `name` is neither a string nor a path, or an argument is unknown.
        FileNotFoundError: If there is no such folder, repository, revision or file, or it is not in the cache while
            `HF_HUB_OFFLINE` is set.
        PermissionError: If the repository is private or gated.
        ConnectionError: If the Hub cannot be reached or the download was interrupted.

    Example:
        >>> create_model("causal_test_resnet", num_classes=5).num_classes
        5
    """
    if isinstance(name, Path):
        name = f"local-dir:{name}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a string or a Path, but got {type(name).__name__}")
    config: dict[str, Any] = {}
    if name.startswith(SOURCES):
        pretrained = pretrained is not False
        name, config = _open_source(name, kwargs.get("cache_dir"))
    elif not is_model(name):
        raise _unknown_model(name)
    else:
        _check_tag(name)
    model = timm.create_model(name, pretrained=bool(pretrained), **kwargs)
    if isinstance(model, CausalCXR):  # not with features_only
        new_labels = not pretrained or model.num_classes != model.pretrained_cfg["num_classes"]
        if not new_labels and (calibration := (config or _manifest(model.pretrained_cfg)).get("calibration")):
            model.calibration = Calibration(**calibration)
        if label_names is not None:
            if model.label_names is not None and not new_labels:
                check_label_names(label_names, model.label_names)
            model.label_names = label_names
    return model


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


def _open_source(name: str, cache_dir: str | Path | None) -> tuple[str, dict[str, Any]]:
    """Return the name of a folder, or of a repository at the commit that it has now, and its config."""
    source, place = parse_model_name(name)
    if source == "local-dir":
        path = Path(place) / CONFIG
        if not path.is_file():
            raise FileNotFoundError(f"no {CONFIG} in {place}; causalcxr.save_pretrained writes a folder with one")
    else:
        repo_id, _, revision = place.partition("@")
        path = download(repo_id, CONFIG, revision or None, cache_dir)
        place = f"{repo_id}@{path.parent.name}"  # .../snapshots/COMMIT/config.json
    config = read_config(path, name)
    architecture = config["architecture"]
    if timm.is_model(architecture) and not is_model(architecture):
        raise ValueError(
            f"{name} holds {architecture!r}, a model of timm, not a causal one; "
            f"timm.create_model({name!r}, pretrained=True) opens it"
        )
    if not is_model(architecture):
        raise ValueError(f"{CONFIG} of {name}: {_unknown_model(architecture)}")
    return f"{source}:{place}", check_config(config, name)


def _manifest(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of weights that come with the package, or nothing for others."""
    file = Path(cfg.get("file") or "")
    return json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) if file.parent == SHIPPED else {}


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
