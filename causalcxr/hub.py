"""Write models to folders and to the Hugging Face Hub, in timm's form."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file
from timm.data import resolve_input_data_config
from timm.models import filter_pretrained_cfg
from torch import nn

from causalcxr._config import CONFIG, check_config
from causalcxr._download import LOG_IN, refused
from causalcxr._weights import WEIGHTS, sha256
from causalcxr.calibration import Calibration
from causalcxr.model_card import model_card
from causalcxr.models import CausalCXR

__all__ = ["push_to_hub", "save_pretrained"]

CARD = "README.md"
# What the cfg says of where the weights were from, and what is at the root of the config instead.
NOT_KEPT = ("state_dict", "architecture", "tag", "label_names", "label_descriptions")


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    label_names: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    data_config: Mapping[str, Any] | None = None,
) -> None:
    """Write `config.json` and `model.safetensors`, which `create_model` and `timm.create_model` open.

    Each file is there whole or not at all, and the config has the SHA-256 sum of the weights, so that `create_model`
    refuses files that do not belong together. Other files in the folder are left alone.

    Args:
        model: A model from `causalcxr.create_model`.
        folder: Where to write; made if it is not there.
        label_names: Names of the labels in the order of the logits. Default: `model.label_names`.
        calibration: What makes probabilities and findings of the logits. Default: `model.calibration`, unless
            `label_names` are others than the model's.
        data_config: Which images the model was trained on, where this differs from `model.pretrained_cfg`: any of
            `input_size` (C, H, W), `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.

    Raises:
        TypeError: If the model is not a `CausalCXR`, or the calibration no `Calibration`.
        ValueError: If it was not built by `create_model`, or names, calibration or `data_config` do not fit it, or its
            arguments cannot be stored as JSON.

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
    config = _config(model, label_names, calibration, data_config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as unfinished:
        weights, description = Path(unfinished, WEIGHTS), Path(unfinished, CONFIG)
        state_dict = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state_dict, weights, metadata={"format": "pt"})
        description.write_text(_as_json({**config, "sha256": sha256(weights)}), encoding="utf-8")
        weights.chmod(description.stat().st_mode)  # safetensors writes for the owner alone
        for path in (weights, description):
            os.replace(path, folder / path.name)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    evaluation: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    label_names: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    data_config: Mapping[str, Any] | None = None,
    commit_message: str = "Upload model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Upload a model to the Hugging Face Hub in one commit: what `save_pretrained` writes, and a model card.

    Without `evaluation` a card that is there already is left alone.

    Args:
        model: A model from `causalcxr.create_model`.
        repo_id: `"owner/repo"`; made if it is not there.
        evaluation: What `examples/evaluate_nih.py` (of this one model) or `examples/export_weights.py` wrote, or the
            path of the JSON file, for the card: see `causalcxr.model_card.model_card`.
        label_names: As in `save_pretrained`.
        calibration: As in `save_pretrained`.
        data_config: As in `save_pretrained`.
        commit_message: Title of the commit.
        private: Whether a repository that is made is private. Default: the owner's setting.
        revision: Branch to commit to. Default: `main`.
        create_pr: Whether to open a pull request instead.
        token: Token with the right to write. Default: the one of `hf auth login` or `HF_TOKEN`. It is not stored.

    Returns:
        The commit, with `commit_url`, `oid` and `pr_url`.

    Raises:
        TypeError: If the model is not a `CausalCXR`.
        ValueError: If something does not fit, as in `save_pretrained`, or the evaluation is of other labels.
        PermissionError: If the token may not write there, or there is none.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, label_names=label_names, calibration=calibration, data_config=data_config)
        config = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
        model_card(config, repo_id, evaluation)  # before anything is sent, lest the evaluation does not fit
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if private and not api.model_info(repo_id).private:
                raise ValueError(f"{repo_id!r} exists and is public; make it private on its page, or take another")
            if evaluation is not None or not api.file_exists(repo_id, CARD, revision=revision):
                Path(folder, CARD).write_text(model_card(config, repo_id, evaluation), encoding="utf-8")
            return api.create_commit(  # upload_folder may split a slow upload into several
                repo_id,
                [CommitOperationAdd(path.name, path) for path in sorted(Path(folder).iterdir())],
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except HfHubHTTPError as error:
            if not refused(error):
                raise
            raise PermissionError(f"no right to write to {repo_id!r}; {LOG_IN}, with a token that may write") from error


def _config(
    model: nn.Module,
    label_names: Sequence[str] | None,
    calibration: Calibration | None,
    data_config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the config of a model, of timm's form, checked as when it is read."""
    if not isinstance(model, CausalCXR):
        raise TypeError(
            f"model must be a causalcxr.CausalCXR, but got {type(model).__name__}; give the model inside a wrapper, "
            "such as model.module"
        )
    model_args: Any = getattr(model, "model_args", None)  # set by the entry points of the registry
    if model_args is None:
        raise ValueError(
            "only models from causalcxr.create_model can be saved, since the arguments of others are not known; "
            "create_model('causal_timm', backbone=...) builds any of them"
        )
    try:
        args = json.loads(_as_json({key: value for key, value in model_args.items() if value is not None}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments of the model cannot be stored as JSON ({error}): {model_args}") from error
    data = resolve_input_data_config(model, args=dict(data_config or {}))
    if unknown := sorted(set(data_config or {}) - data.keys()):
        raise ValueError(f"data_config may have {', '.join(data)}, but has {', '.join(unknown)}")
    if calibration is None:
        calibration = _calibration_for(model, label_names)
    elif not isinstance(calibration, Calibration):
        raise TypeError(f"calibration must be a causalcxr.Calibration, but got {type(calibration).__name__}")
    names = model.label_names if label_names is None else label_names
    cfg = filter_pretrained_cfg(model.pretrained_cfg, remove_source=True)
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "label_names": names if names is None or isinstance(names, str) else list(names),
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "model_args": args,
        "pretrained_cfg": {
            **{key: value for key, value in cfg.items() if key not in NOT_KEPT},
            **data,
            "num_classes": model.num_classes,
            "pool_size": [size // model.reduction for size in data["input_size"][1:]],
        },
    }
    return check_config(json.loads(json.dumps(config)), "this model")


def _calibration_for(model: CausalCXR, label_names: Sequence[str] | None) -> Calibration | None:
    """Return the model's calibration, unless other label names take the place of those that it is of."""
    kept = label_names is None or model.label_names in (None, tuple(label_names))
    return model.calibration if kept else None


def _as_json(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, allow_nan=False) + "\n"
