"""The model card of a saved model: what it is, how to load it, and what an evaluation found."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from causalcxr.data.labels import check_label_names

__all__ = ["model_card"]

TASK = "image-classification"


class _Evaluation(NamedTuple):
    """What the card says of an evaluation."""

    figures: Mapping[str, Any]  # mean_auroc, interval, labels, groups
    training: Mapping[str, Any]  # config, epoch, val_auroc, lists, commit
    images: Mapping[str, Any]  # images, label_file
    split: str
    about: str


def model_card(
    config: Mapping[str, Any], repo_id: str, evaluation: Mapping[str, Any] | str | os.PathLike[str] | None = None
) -> str:
    """Return the text of a model card, with the evaluation as `EvalResult` in its head.

    Args:
        config: The `config.json` that `save_pretrained` wrote.
        repo_id: `"owner/repo"`, for the code that loads the model.
        evaluation: `results.json` of `examples/evaluate_nih.py` for this one model, or the JSON that
            `examples/export_weights.py` writes beside weights; as a path, or read.

    Raises:
        ValueError: If the evaluation is of another form, of several models, or of other labels than the model's.

    Example:
        >>> config = {"architecture": "causal_resnet101", "label_names": ["Mass"], "num_classes": 1,
        ...           "pretrained_cfg": {"input_size": [3, 512, 512], "license": "apache-2.0"}}
        >>> text = model_card(config, "owner/repo")
        >>> "Not for clinical use" in text, "hf-hub:owner/repo" in text
        (True, True)
    """
    results, report = (None, "None was given.") if evaluation is None else _evaluated(evaluation, config)
    name = repo_id.rpartition("/")[2]
    head = ModelCardData(
        model_name=name,
        license=config["pretrained_cfg"].get("license"),
        library_name="causalcxr",
        pipeline_tag=TASK,
        tags=["timm", "chest-x-ray", "multi-label-classification"],
        eval_results=results,
    )
    names, size = config["label_names"], "x".join(map(str, config["pretrained_cfg"]["input_size"][1:]))
    labels = f"{config['num_classes']} labels" + (f": {', '.join(names)}" if names else ", without names")
    return f"""---
{head.to_yaml()}
---

# {name}

**Not for clinical use.** These weights are for research; they must not inform the care of any person.

`{config["architecture"]}` of the Python package causalcxr ([method](https://arxiv.org/abs/2305.12072)), for images of
{size} px, and {labels}.

```python
import causalcxr

model = causalcxr.create_model("hf-hub:{repo_id}").eval()
```

{_calibration(config)}

## Evaluation

{report}
"""


def _calibration(config: Mapping[str, Any]) -> str:
    """Say whether scores are probabilities."""
    calibration = config.get("calibration")
    if calibration is None:
        return "Scores are not calibrated probabilities, and no thresholds are given."
    temperature, thresholds = calibration["temperature"], calibration["thresholds"]
    names = config["label_names"] or [f"label {k}" for k in range(config["num_classes"])]
    limits = [[name, f"{value:.3g}"] for name, value in zip(names, thresholds, strict=True)]
    return f"""`model.calibration` makes probabilities of the logits, with temperature {temperature:.3g}, and findings
of these, with the thresholds below. Both hold for images like those of the fit.

{_table(["label", "threshold"], limits)}"""


def _evaluated(
    evaluation: Mapping[str, Any] | str | os.PathLike[str], config: Mapping[str, Any]
) -> tuple[list[EvalResult], str]:
    """Return an evaluation for the head of the card and for its text."""
    content: Any = evaluation
    if not isinstance(evaluation, Mapping):
        content = json.loads(Path(evaluation).read_text(encoding="utf-8"))
    try:
        found = _of_one_model(content) if "models" in content else _of_weights(content)
        return _results(found, config), _report(found)
    except (KeyError, TypeError) as error:
        raise ValueError(
            "the evaluation must be results.json of examples/evaluate_nih.py or the JSON of "
            f"examples/export_weights.py, but lacks {error}"
        ) from error


def _of_one_model(content: Mapping[str, Any]) -> _Evaluation:
    """Return what `examples/evaluate_nih.py` wrote."""
    models = content["models"]
    if len(models) != 1:
        raise ValueError(f"the evaluation must be of one model, but is of {', '.join(models)}; evaluate it alone")
    (figures,) = models.values()
    return _Evaluation(figures, figures["training"], content["images"], content["split"], "")


def _of_weights(content: Mapping[str, Any]) -> _Evaluation:
    """Return what `examples/export_weights.py` wrote."""
    return _Evaluation(content["test"], content, content["test_images"], "test", content["about"])


def _dataset(found: _Evaluation) -> tuple[str, str]:
    """Return identifier and name of the data set."""
    if found.images["label_file"] == "generated":
        return "synthetic", "generated radiographs (no patients)"
    return "nih-chest-xray14", "NIH ChestX-ray14"


def _results(found: _Evaluation, config: Mapping[str, Any]) -> list[EvalResult]:
    """Return mean and AUROC of each label, without those that have none."""
    labels = found.figures["labels"]
    if config["label_names"] is not None:
        check_label_names(list(labels), config["label_names"])
    identifier, name = _dataset(found)
    values = {"mean AUROC": found.figures["mean_auroc"]}
    values |= {f"AUROC {label}": figures["auroc"] for label, figures in labels.items()}
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=identifier,
            dataset_name=name,
            dataset_split=found.split,
            metric_type="roc_auc",
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in values.items()
        if math.isfinite(value)
    ]


def _report(found: _Evaluation) -> str:
    figures, training = found.figures, found.training
    lists, config = training["lists"], training["config"]
    labels = [[name, str(row["positives"]), _interval(row, "auroc")] for name, row in figures["labels"].items()]
    groups = [[name, str(row["images"]), _interval(row, "mean_auroc")] for name, row in figures["groups"].items()]
    parts = [
        f"Mean AUROC of {len(labels)} labels on {found.images['images']} images ({_dataset(found)[1]}, {found.split}): "
        f"**{_interval(figures, 'mean_auroc')}**, with 95 % intervals.",
        f"Trained on {lists['train']['images']} images, epoch {training['epoch']} of {config['epochs']} chosen on "
        f"{lists['val']['images']} others (AUROC {training['val_auroc']:.3f}); seed {config['seed']}, commit "
        f"`{training['commit']}`.",
        found.about,
        _table(["label", "positives", "AUROC"], labels),
        _table(["mean AUROC within", "images", "AUROC"], groups) if groups else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _interval(figures: Mapping[str, Any], key: str) -> str:
    low, high = figures["interval"]
    return f"{figures[key]:.3f} ({low:.3f}, {high:.3f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])
