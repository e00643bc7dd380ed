"""Evaluate trained classifiers on the official test list, for the final report: choose nothing on it.

    python examples/evaluate_nih.py runs/plain/best.pt runs/causal/best.pt --data path/to/nih --output results/nih

Writes into the folder:

- `results.json`: every figure, with what it takes to make it again;
- `results.md`: AUROC of each finding with intervals over patients, beside the paper's and other published figures; AP
  and PA, women and men, and age bands apart; the floor that records alone reach; calibration; the boxes;
- `roc.png`, `reliability.png`, `panels.png` (boxes beside heat maps, where there are boxes) and `training.png` (the
  three classifiers by epoch, of the last causal model given).

With several checkpoints each is compared with the first one, over the same resamples of patients. `--split val` makes
the same report of the validation part.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import figures
from atomic import write_json, write_text
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import read_nih_tables
from causalcxr.metrics import expected_calibration_error, paired_difference
from groups import by_group, label_figures, metadata_floor, quiet_bootstrap, summary
from localisation import MAP_SIDE, heat_maps, localise, marked_findings
from provenance import commit, fingerprint
from recipe import Config, build_dataset
from report import markdown
from scoring import Scored, check_comparable, load_checkpoint, score


def evaluate(run: Scored, model: nn.Module, first: Scored, n_resamples: int) -> dict[str, Any]:
    """Return the figures of one model, compared with the first one."""
    targets, patient = run.dataset.targets.numpy(), run.dataset.patient
    result = quiet_bootstrap(run.headline, targets, patient, n_resamples)
    difference = paired_difference(run.headline, first.headline, targets, patient, n_resamples=n_resamples)
    calibration = expected_calibration_error(sigmoid(run.headline), targets)
    return summary(result) | {
        "labels": label_figures(result, targets),
        "difference_from_first": {
            "mean_auroc": round(difference.mean, 4),
            "interval": [round(difference.mean_low, 4), round(difference.mean_high, 4)],
        },
        "groups": by_group(run.headline, run.dataset, n_resamples),
        "classifiers": {
            name: summary(quiet_bootstrap(scores, targets, patient, n_resamples)) for name, scores in run.scores.items()
        },
        "expected_calibration_error": {
            "mean": round(float(calibration.mean()), 4),
            "labels": dict(zip(NIH_LABELS, calibration.round(4).tolist(), strict=True)),
        },
        "localisation": localise(model, run.dataset, n_resamples=n_resamples),
        "training": run.saved,
    }


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().sigmoid().numpy()


def floor_figures(run: Scored, data: str, split: str, n_resamples: int) -> dict[str, Any]:
    """Return what the records of the images alone predict, learnt from those of all images outside the test list.

    For a report on validation images it is learnt from those of the training images.
    """
    config = Config(**(run.saved["config"] | {"data": data}))
    scores = metadata_floor(records(config, "train_val" if split == "test" else "train"), run.dataset)
    targets = run.dataset.targets.numpy()
    result = quiet_bootstrap(scores, targets, run.dataset.patient, n_resamples)
    return summary(result) | {"labels": label_figures(result, targets)}


def records(config: Config, split: str) -> Any:
    """Return the records of a split, without a look at images."""
    if config.data.startswith("synthetic:"):
        return build_dataset(config, "train")
    return read_nih_tables(config.data).split(split, val_fraction=config.val_fraction, seed=config.split_seed)


def panels(
    dataset: Any, models: dict[str, nn.Module], count: int
) -> list[tuple[np.ndarray, int, list[Any], dict[str, Any]]]:
    """Return rows for `draw_panels`: the first finding of each label that has boxes, by the maps of all models."""
    rows: dict[int, Any] = {}
    for finding in marked_findings(dataset):
        if finding.label in rows or len(rows) == count:
            continue
        image = dataset[finding.index][0]
        maps = {
            f"{name}:\n{method}": heat_map
            for name, model in models.items()
            for method, heat_map in heat_maps(model, image, finding.label).items()
            if method != "centre box"
        }
        boxes = [tuple(value / MAP_SIDE for value in box) for box in finding.boxes]
        rows[finding.label] = figures.Panel(image.numpy(), finding.label, boxes, maps)
    return list(rows.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="best.pt of one or more runs")
    parser.add_argument("--data", required=True, help="folder in the layout of the NIH release, or synthetic:NUMBER")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    runs: dict[str, Scored] = {}
    for path in args.checkpoints:
        if path.parent.name in runs:
            parser.error(f"two runs are called {path.parent.name}; give folders of different names, each once")
        runs[path.parent.name] = score(path, args.split, args.device, data=args.data, workers=args.workers)
        check_comparable(runs[path.parent.name], next(iter(runs.values())))
    models = {name: load_checkpoint(run.checkpoint, args.device)[0] for name, run in runs.items()}
    first = next(iter(runs.values()))
    targets = first.dataset.targets.numpy()
    results = {
        "split": args.split,
        "images": fingerprint(first.dataset),
        "patients": len(np.unique(first.dataset.patient)),
        "resamples": args.resamples,
        "commit": commit(),
        "models": {name: evaluate(run, models[name], first, args.resamples) for name, run in runs.items()},
        "records_alone": floor_figures(first, args.data, args.split, args.resamples),
    }
    text = markdown(results)
    print(text)
    write_json(args.output / "results.json", results)
    write_text(args.output / "results.md", text + "\n")
    headlines = {name: run.headline for name, run in runs.items()}
    figures.draw_roc(headlines, targets, args.output / "roc.png")
    probabilities = {name: sigmoid(logits) for name, logits in headlines.items()}
    figures.draw_reliability(probabilities, targets, args.output / "reliability.png")
    if rows := panels(first.dataset, models, count=6):
        figures.draw_panels(rows, args.output / "panels.png")
    for run in reversed(runs.values()):
        if "causal" in run.scores:
            figures.draw_training(run.saved["log"], args.output / "training.png")
            break


if __name__ == "__main__":
    main()
