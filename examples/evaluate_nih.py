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
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import figures
from causalcxr.data import NIH_LABELS
from causalcxr.metrics import expected_calibration_error, paired_difference
from groups import by_group, label_figures, metadata_floor, quiet_bootstrap, summary
from localisation import MAP_SIDE, heat_maps, localise, marked_findings
from provenance import commit, fingerprint
from recipe import Config, build_dataset
from report import markdown
from scoring import Scored, check_same_images, score


def evaluate(run: Scored, first: Scored, n_resamples: int) -> dict[str, Any]:
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
        "localisation": localise(run.model, run.dataset, n_resamples=n_resamples),
        "training": run.saved,
    }


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().sigmoid().numpy()


def floor_figures(config: Config, dataset: Any, n_resamples: int) -> dict[str, Any]:
    """Return what the records of the images alone predict, learnt from those of the training images."""
    scores = metadata_floor(build_dataset(config, "train"), dataset)
    targets = dataset.targets.numpy()
    result = quiet_bootstrap(scores, targets, dataset.patient, n_resamples)
    return summary(result) | {"labels": label_figures(result, targets)}


def panels(runs: dict[str, Scored], count: int) -> list[tuple[np.ndarray, int, list[Any], dict[str, Any]]]:
    """Return rows for `draw_panels`: the first finding of each label that has boxes, by the maps of all models."""
    dataset = next(iter(runs.values())).dataset
    rows: dict[int, Any] = {}
    for finding in marked_findings(dataset):
        if finding.label in rows or len(rows) == count:
            continue
        image = dataset[finding.index][0]
        maps = {
            f"{name}:\n{method}": heat_map
            for name, run in runs.items()
            for method, heat_map in heat_maps(run.model, run.dataset[finding.index][0], finding.label).items()
            if method != "centre box"
        }
        boxes = [tuple(value / MAP_SIDE for value in box) for box in finding.boxes]
        rows[finding.label] = (image.numpy(), finding.label, boxes, maps)
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
        run = score(path, args.split, args.device, data=args.data, workers=args.workers)
        name = run.saved["config"]["model"]
        runs[name if name not in runs else str(path.parent)] = run
        check_same_images(run, next(iter(runs.values())))
    first = next(iter(runs.values()))
    targets = first.dataset.targets.numpy()
    results = {
        "split": args.split,
        "images": fingerprint(first.dataset),
        "patients": len(np.unique(first.dataset.patient)),
        "resamples": args.resamples,
        "commit": commit(),
        "models": {name: evaluate(run, first, args.resamples) for name, run in runs.items()},
        "records_alone": floor_figures(
            Config(**(first.saved["config"] | {"data": args.data})), first.dataset, args.resamples
        ),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    text = markdown(results)
    print(text)
    for name, content in (("results.json", json.dumps(results, indent=1)), ("results.md", text)):
        partial = args.output / f"{name}.partial"
        partial.write_text(content + "\n")
        os.replace(partial, args.output / name)
    headlines = {name: run.headline for name, run in runs.items()}
    figures.draw_roc(headlines, targets, args.output / "roc.png")
    probabilities = {name: sigmoid(logits) for name, logits in headlines.items()}
    figures.draw_reliability(probabilities, targets, args.output / "reliability.png")
    if rows := panels(runs, count=6):
        figures.draw_panels(rows, args.output / "panels.png")
    for run in reversed(runs.values()):
        if "causal" in run.scores:
            figures.draw_training(run.saved["log"], args.output / "training.png")
            break


if __name__ == "__main__":
    main()
