"""Save, load and push models in timm's format, in folders and on the Hugging Face Hub, with a model card.

A folder has `config.json` and `model.safetensors`, and is treated as untrusted. Its config cannot choose other weights
or run code, and weights are only read from safetensors. Errors of `huggingface_hub` pass through.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from huggingface_hub import CommitInfo, CommitOperationAdd, EvalResult, HfApi, ModelCardData, hf_hub_download
from safetensors.torch import save_file
from timm.data import resolve_input_data_config
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    get_model_args,
    get_model_input_config,
    get_pretrained_cfg,
    model_entrypoint,
    parse_model_name,
)
from torch import Tensor, nn

from causalcxr.calibration import Calibration, checked_calibration, current_calibration
from causalcxr.data.labels import check_label_names, checked_names

__all__ = ["SOURCES", "push_to_hub", "read", "save_pretrained", "weights_file"]

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
REPOSITORY = "owner/repo"  # placeholder in a card until it is pushed
TASK = "image-classification"

# Arguments of a causal model that a config may set.
CAUSAL_ARGS = {
    *("backbone", "backbone_args", "img_size", "in_chans", "output_stride", "drop_path_rate"),
    *("num_classes", "dim", "num_heads", "depth", "complement", "combine", "drop_rate"),
}
# Arguments that choose weights or how a model is built and wrapped. A config must not set them.
NOT_ARGS = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
    *("pretrained_backbone", "features_only", "out_indices", "feature_cls", "pruned", "device", "dtype"),
}
# Image settings that a config may set. The rest of the pretrained cfg comes from the registry.
IMAGE_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "fixed_input_size")


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    label_names: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    metrics: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
) -> None:
    """Save a model to a folder that `create_model`, `timm.create_model` and `push_to_hub` accept.

    The function writes `config.json`, `model.safetensors` and the model card, `README.md`. An existing card is kept
    unless you pass `metrics`. Other files do not change. The config stores the SHA-256 sum of the weights, to detect
    files that do not belong together. As in timm, it does not store dropout rates. The licence on the card is
    `model.pretrained_cfg["license"]`, that of the weights the model started from. Set it to your own.

    Args:
        model: A model from `causalcxr.create_model` or `timm.create_model`.
        folder: Output folder, created if it does not exist.
        label_names: Names of the labels in the order of the logits. Default: `model.label_names`. If the model has
            names, they must match. After `reset_classifier` on a plain timm model, set `model.label_names = None`.
        calibration: Temperature and thresholds for the logits. Default: `model.calibration`. If the weights have
            changed since it was set, it is left out and the logger `causalcxr` warns.
        metrics: Metrics for the card: `{"data": str, "split": str, "images": int, "patients": int, "auroc": {"mean":
            {"value": float, "low": float, "high": float}, "Mass": {...}, ...}, "commit": str, "seed": int, "command":
            str}`. Only `data`, `split` and `auroc`, with a `value` in each entry, are required.
        data_config: Settings of the training images that differ from `model.pretrained_cfg`: any of `input_size`
            (C, H, W), `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.

    Raises:
        TypeError: If `calibration` is not a `Calibration`.
        ValueError: If the model was not built by `create_model`, names, calibration, metrics or `data_config` do not
            fit it, or its arguments cannot be stored as JSON.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet", num_classes=2)
        >>> with TemporaryDirectory() as folder:
        ...     save_pretrained(model, folder, label_names=["Mass", "Nodule"])
        ...     causalcxr.create_model(Path(folder)).label_names
        ('Mass', 'Nodule')
    """
    config = _config(model, label_names, calibration, dict(data_config or {}))
    card = _card(config, metrics)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as unfinished:
        weights, description = Path(unfinished, WEIGHTS), Path(unfinished, CONFIG)
        # Copy, since safetensors rejects shared tensors, which some backbones have.
        state_dict = {name: tensor.cpu().contiguous().clone() for name, tensor in _state_dict(model).items()}
        save_file(state_dict, weights, metadata={"format": "pt"})
        config["sha256"] = _sha256(weights)
        description.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights.chmod(description.stat().st_mode)  # safetensors makes files private to the owner
        for path in (weights, description):
            os.replace(path, folder / path.name)
    if metrics is not None or not (folder / CARD).exists():
        (folder / CARD).write_text(card, encoding="utf-8")


def _state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the names that a new model has, without the prefixes of compiled modules."""
    state_dict = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    if odd := [name for name in state_dict if "parametrizations." in name or name.endswith("_orig")]:
        raise ValueError(
            f"weights are pruned or parametrized, such as {odd[0]!r}: call torch.nn.utils.prune.remove or "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return state_dict


def push_to_hub(
    model: nn.Module | str | os.PathLike[str],
    repo_id: str,
    *,
    label_names: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    metrics: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
    picture: str | os.PathLike[str] | None = None,
    commit_message: str = "Upload model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Upload the config, weights and card of a model to the Hugging Face Hub in one commit.

    Args:
        model: A model, or a folder written by `save_pretrained`.
        repo_id: `"owner/repo"`, created if it does not exist.
        label_names: As in `save_pretrained`. Not allowed with a folder.
        calibration: As in `save_pretrained`. Not allowed with a folder.
        metrics: As in `save_pretrained`, e.g. from the JSON of `examples/evaluate.py`. Without metrics, a folder's card
            is uploaded unchanged, and a model does not replace the card of an existing repository.
        data_config: As in `save_pretrained`. Not allowed with a folder.
        picture: PNG file to show on the uploaded card, e.g. from `causalcxr predict --heatmap`. It is as public as the
            repository, so use a film that you may publish.
        commit_message: Title of the commit.
        private: Whether to make a new repository private. Default: the owner's setting.
        revision: Branch to commit to. Default: `main`.
        create_pr: Whether to open a pull request instead.
        token: Token with write access. Default: that of `hf auth login` or `HF_TOKEN`. It is not stored.

    Returns:
        The commit, with `commit_url`, `oid` and `pr_url`.

    Raises:
        ValueError: As in `save_pretrained`; or if `private` is True but the repository is public, or there is a picture
            but no card to upload.
        OSError: If the folder has no config or weights, or the picture cannot be read.
        huggingface_hub.errors.HfHubHTTPError: If the token is missing or has no write access.
    """
    shown = None if picture is None else Path(picture).read_bytes()
    options: dict[str, Any] = {"label_names": label_names, "calibration": calibration, "data_config": data_config}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary if isinstance(model, nn.Module) else model)
        if isinstance(model, nn.Module):
            save_pretrained(model, folder, **options)
        elif given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"{given[0]} cannot be used with a folder; pass it to save_pretrained")
        else:
            weights_file(PretrainedCfg(**read(f"local-dir:{folder}")[0]))
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
        if metrics is not None:
            card = _card(json.loads((folder / CONFIG).read_text(encoding="utf-8")), metrics)
        api = HfApi(token=token)
        wanted = metrics is not None or not isinstance(model, nn.Module)
        new = card and (wanted or not api.file_exists(repo_id, CARD, revision=revision))
        if shown is not None and not new:
            raise ValueError("picture needs a card to upload; pass metrics, or a folder that has README.md")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id!r} exists and is public; make it private on its page, or use another")
        files: dict[str, Any] = {name: folder / name for name in (CONFIG, WEIGHTS)}
        if new:
            if shown is not None:
                files["picture.png"] = shown
                head, section, rest = card.partition("\n## ")
                card = f"{head}\n![A radiograph with the model's heat map](picture.png)\n{section}{rest}"
            files[CARD] = card.replace(f"hf-hub:{REPOSITORY}", f"hf-hub:{repo_id}").encode()
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )


def read(name: str, cache_dir: str | Path | None = None) -> tuple[dict[str, Any], dict[str, Any], Calibration | None]:
    """Return the pretrained cfg, model arguments and calibration from the config of a folder or repository.

    The cfg holds the architecture, the labels and the source of the weights, which pins a repository's commit.
    """
    source, place = parse_model_name(name)
    if source == "local-dir":
        path, where = Path(place, CONFIG), {"file": place}
    else:
        repo_id, _, revision = place.partition("@")
        path = Path(hf_hub_download(repo_id, CONFIG, revision=revision or None, cache_dir=cache_dir))
        where = {"hf_hub_id": f"{repo_id}@{path.parent.name}"}  # .../snapshots/COMMIT/config.json
    try:
        cfg, args, calibration = _checked(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{CONFIG} of {name} does not describe a supported model: {error!r:.500}") from error
    return cfg | {"source": source, **where}, args, calibration


def weights_file(cfg: PretrainedCfg, cache_dir: str | Path | None = None) -> Path:
    """Return the path of the safetensors file in a pretrained cfg, after downloading it if necessary."""
    remote = cfg.source == "hf-hub" or (cfg.hf_hub_id and not cfg.file)
    name = (cfg.hf_hub_filename or WEIGHTS) if remote else (cfg.file or "")
    path = Path(name, WEIGHTS) if cfg.source == "local-dir" else Path(name)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{name or 'the weights'} is not a safetensors file; other formats may run code, so they are not opened"
        )
    if remote:
        repo_id, _, revision = cfg.hf_hub_id.partition("@")
        path = Path(hf_hub_download(repo_id, name, revision=revision or None, cache_dir=cache_dir))
    if not path.is_file():
        others = ", ".join(sorted(file.name for file in path.parent.glob("*"))) or "nothing"
        raise FileNotFoundError(f"no {path.name} in {path.parent}, which has {others}; pickles are never opened")
    config = path.with_name(CONFIG)
    described = path.name == WEIGHTS and config.is_file()
    expected = json.loads(config.read_text(encoding="utf-8")).get("sha256") if described else None
    if expected and _sha256(path) != expected:
        raise ValueError(
            f"{path} is damaged or does not belong to its {CONFIG}: the SHA-256 sum is not {expected}; save, copy or "
            "download both again"
        )
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Calibration | None]:
    """Validate a config and return its pretrained cfg, model arguments and calibration. Ignore other entries."""
    name, given, num_classes = config["architecture"], config["pretrained_cfg"], config["num_classes"]
    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(f"unknown architecture {name!r:.100}")
    if type(num_classes) is not int or num_classes < 0:
        raise ValueError(f"num_classes must be an integer of at least 0, but got {num_classes!r:.100}")
    names, calibration = config.get("label_names") or given.get("label_names") or None, config.get("calibration")
    if calibration is not None:
        calibration = checked_calibration(Calibration(**calibration), num_classes)
    labels = {"num_classes": num_classes, "label_names": checked_names(names, num_classes)}
    return _checked_cfg(name, given) | labels, _checked_args(name, config.get("model_args") or {}), calibration


def _checked_args(architecture: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the model arguments of a config. Raise if one is not allowed, e.g. because it loads other weights."""
    args = {name: value for name, value in given.items() if name not in ("num_classes", "pretrained_backbone")}
    refused = args.keys() - CAUSAL_ARGS if _is_causal(architecture) else args.keys() & NOT_ARGS
    if refused := refused | ((args.get("backbone_args") or {}).keys() & NOT_ARGS):
        raise ValueError(f"model_args must not have {', '.join(sorted(refused))}")
    return args


def _checked_cfg(architecture: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a model's pretrained cfg: image settings from `given`, network settings from the registry."""
    registered = get_pretrained_cfg(architecture) or PretrainedCfg()
    cfg = {key: given.get(key, getattr(registered, key)) for key in IMAGE_KEYS}
    _, _, _ = cfg["input_size"] = tuple(map(int, cfg["input_size"]))
    cfg["mean"], cfg["std"] = (tuple(map(float, cfg[key])) for key in ("mean", "std"))
    if not all(value > 0 for value in cfg["input_size"] + cfg["std"]):
        raise ValueError(f"input_size and std must be positive, but got {cfg['input_size']} and {cfg['std']}")
    network = {key: getattr(registered, key) for key in ("first_conv", "classifier")}
    return cfg | network | {"architecture": architecture, "license": given.get("license")}


def _is_causal(architecture: str) -> bool:
    return model_entrypoint(architecture).__module__.startswith("causalcxr.")


def _config(
    model: Any, label_names: Sequence[str] | None, calibration: Calibration | None, data_config: dict[str, Any]
) -> dict[str, Any]:
    """Return the config of a model in timm's format, validated as when it is read."""
    recorded = ("pretrained_cfg", "_model_args", "num_classes", "num_features")  # by timm's factory
    # A wrapper, such as peft's, may forward attributes of the model inside.
    if "pretrained_cfg" not in vars(model) or not all(hasattr(model, name) for name in recorded):
        raise ValueError(
            "only models from causalcxr.create_model or timm.create_model can be saved, but got "
            f"{type(model).__name__}; unwrap the model first, e.g. pass model.module, and merge adapters"
        )
    own = getattr(model, "label_names", None)
    if label_names is not None and own is not None:
        check_label_names(label_names, own)
    names = checked_names(own if label_names is None else label_names, model.num_classes)
    if calibration is None:
        calibration = current_calibration(model)
    else:
        checked_calibration(calibration, model.num_classes)
    data = resolve_input_data_config(model, args=data_config)
    if unknown := sorted(data_config.keys() - data.keys()):
        raise ValueError(f"data_config may only have {', '.join(data)}, but got {', '.join(unknown)}")
    cfg, args = model.pretrained_cfg, get_model_args(model)
    if _is_causal(cfg["architecture"]):
        args = {name: value for name, value in args.items() if name in CAUSAL_ARGS}
    config = {
        "architecture": cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "label_names": names,
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "model_args": args,
        "pretrained_cfg": {
            **{key: cfg[key] for key in ("first_conv", "classifier", "license") if cfg.get(key) is not None},
            **data,
            "fixed_input_size": get_model_input_config(model)["fixed_input_size"],
            "num_classes": model.num_classes,
        },
    }
    try:
        config = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments of the model cannot be stored as JSON ({error}): {args!r:.300}") from error
    _checked(config)
    return config


def _card(config: dict[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """Return the model card: a description, how to load the model, and the metrics if given."""
    architecture, cfg, calibration = config["architecture"], config["pretrained_cfg"], config["calibration"]
    labels = config["label_names"] or [f"label {k}" for k in range(config["num_classes"])]
    results, evaluation = _evaluation(metrics, config["label_names"]) if metrics else (None, "No metrics were given.")
    head = ModelCardData(
        model_name=architecture,
        license=cfg.get("license"),
        library_name="causalcxr",
        pipeline_tag=TASK,
        tags=["timm", "chest-x-ray", "multi-label-classification"],
        eval_results=results,
    )
    probabilities = "The sigmoid of a logit is not a calibrated probability, and the model has no thresholds."
    if calibration:
        thresholds = zip(labels, (f"{value:.3g}" for value in calibration["thresholds"]), strict=True)
        probabilities = (
            f"`model.calibration` converts logits to probabilities with temperature {calibration['temperature']:.3g}, "
            f"and these to findings with the thresholds below.\n\n{_table('threshold', thresholds)}"
        )
    backbone = config["model_args"].get("backbone", "a timm backbone")
    causal = f"{backbone} with `CausalHead` ([paper](https://arxiv.org/abs/2305.12072))"
    height, width = cfg["input_size"][1:]
    outputs = f"{len(labels)} label{'s' * (len(labels) > 1)}: {', '.join(labels)}"
    return f"""---
{head.to_yaml()}
---

# {architecture}

**Not for clinical use.** These weights are for research only. They must not inform patient care.

`{architecture}` is {causal if _is_causal(architecture) else "a timm model"}.
It takes radiographs of {height} x {width} px and returns logits for {outputs}.

```python
import causalcxr

model = causalcxr.create_model("hf-hub:{REPOSITORY}").eval()  # or the Path of a folder
```

## Probabilities

{probabilities}

## Evaluation

{evaluation}

## Limits

Results only apply to radiographs like those used for training. Labels of public datasets are extracted from reports by
software, and some are wrong. A classifier may rely on confounders, such as tubes or the view, instead of the finding.
"""


def _evaluation(metrics: Mapping[str, Any], labels: Sequence[str] | None) -> tuple[list[EvalResult] | None, str]:
    """Return the metrics, mean first, as card metadata and as Markdown."""
    if missing := [key for key in ("data", "split", "auroc") if key not in metrics]:
        raise ValueError(f"metrics must have data, split and auroc, but lack {', '.join(missing)}")
    if labels and (unknown := [label for label in metrics["auroc"] if label not in ("mean", *labels)]):
        raise ValueError(f"metrics may only have labels of the model, but got {', '.join(unknown)}")
    results, rows = [], []
    for label, row in sorted(metrics["auroc"].items(), key=lambda item: item[0] != "mean"):
        if row.get("value") is None or not math.isfinite(row["value"]):
            continue
        results.append(
            EvalResult(
                task_type=TASK,
                dataset_type=re.sub(r"[^a-z0-9]+", "-", metrics["data"].lower()).strip("-"),
                dataset_name=metrics["data"],
                dataset_split=metrics["split"],
                metric_type="roc_auc",
                metric_name=f"AUROC, {label}",
                metric_value=row["value"],
            )
        )
        ends = row.get("low"), row.get("high")
        interval = "" if None in ends else " ({:.3f}, {:.3f})".format(*ends)
        positives = "" if row.get("positives") is None else f", {row['positives']} positive images"
        positives += "" if row.get("positive_groups") is None else f" of {row['positive_groups']} patients"
        rows.append((label, f"{row['value']:.3f}{interval}{positives}"))
    known = [key for key in ("images", "patients", "seed", "commit") if metrics.get(key) is not None]
    on = ", ".join([metrics["data"], metrics["split"], *(f"{key}: {metrics[key]}" for key in known)])
    text = f"AUROC on {on}. The 95 % intervals are too narrow if few patients are positive.\n\n{_table('AUROC', rows)}"
    return results or None, f"{text}\n\n```bash\n{metrics['command']}\n```" if metrics.get("command") else text


def _table(figure: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"| {label} | {value} |" for label, value in [("label", figure), ("---", "---"), *rows])
