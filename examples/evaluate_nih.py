"""Evaluate trained classifiers on the official test list: one pass each, intervals over patients, AP and PA apart.

    python examples/evaluate_nih.py --data path/to/nih runs/causal/best.pt runs/plain/best.pt --json results.json

With several checkpoints the difference of their mean AUROC from the first one's is given as well, over the same
resamples of patients. The test list is for the final report: choose nothing on it.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from causalcxr.data import NIH_LABELS
from causalcxr.metrics import BootstrapResult, bootstrap_auroc
from provenance import commit
from recipe import Config, build_dataset
from scoring import load_checkpoint, prepare

# Table 1 of arXiv 2305.12072, column "Ours", in the order of NIH_LABELS, and its mean.
PAPER = (0.81, 0.94, 0.91, 0.75, 0.89, 0.76, 0.82, 0.91, 0.82, 0.90, 0.94, 0.84, 0.77, 0.94)
PAPER_MEAN = 0.857


@torch.no_grad()
def predict(model: nn.Module, dataset: torch.utils.data.Dataset, device: str, workers: int) -> np.ndarray:
    loader = DataLoader(dataset, batch_size=64, num_workers=workers)
    return np.concatenate([model(prepare(images.to(device), model)).cpu().numpy() for images, _ in tqdm(loader)])


def interval(low: float, high: float) -> list[float]:
    return [round(float(low), 4), round(float(high), 4)]


def summary(result: BootstrapResult) -> dict[str, Any]:
    return {"mean_auroc": round(float(result.mean), 4), "interval": interval(result.mean_low, result.mean_high)}


def report(scores: np.ndarray, dataset: Any, n_resamples: int) -> tuple[dict[str, Any], BootstrapResult]:
    """Return the figures of one model, and the bootstrap over all images for comparisons."""
    targets = dataset.targets.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label without positives in a view or resample is left out of its mean
        whole = bootstrap_auroc(scores, targets, dataset.patient, n_resamples=n_resamples)
        views = {
            view: summary(
                bootstrap_auroc(
                    scores[dataset.view == view],
                    targets[dataset.view == view],
                    dataset.patient[dataset.view == view],
                    n_resamples=n_resamples,
                )
            )
            | {"images": int((dataset.view == view).sum())}
            for view in ("AP", "PA")
        }
    labels = {
        name: {
            "positives": int(targets[:, k].sum()),
            "auroc": round(float(whole.auroc[k]), 4),
            "interval": interval(whole.low[k], whole.high[k]),
        }
        for k, name in enumerate(NIH_LABELS)
    }
    return summary(whole) | {"views": views, "labels": labels}, whole


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return the table: a row a label, a column a model, the paper's column last."""
    names = list(results)
    lines = [f"| finding | positives | {' | '.join(names)} | paper |", "|---|---|" + "---|" * (len(names) + 1)]

    def cell(figures: dict[str, Any], key: str) -> str:
        return f"{figures[key]:.3f} ({figures['interval'][0]:.3f}, {figures['interval'][1]:.3f})"

    for k, label in enumerate(NIH_LABELS):
        cells = " | ".join(cell(results[name]["labels"][label], "auroc") for name in names)
        positives = results[names[0]]["labels"][label]["positives"]
        lines.append(f"| {label} | {positives} | {cells} | {PAPER[k]:.2f} |")
    lines.append(f"| **mean** | | {' | '.join(cell(results[n], 'mean_auroc') for n in names)} | {PAPER_MEAN} |")
    for view in ("AP", "PA"):
        cells = " | ".join(cell(results[n]["views"][view], "mean_auroc") for n in names)
        lines.append(f"| mean, {view} only | | {cells} | |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="best.pt of one or more runs")
    parser.add_argument("--data", required=True, help="folder in the layout of the NIH release, or synthetic:NUMBER")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    results: dict[str, dict[str, Any]] = {}
    first: BootstrapResult | None = None
    for path in args.checkpoints:
        model, saved = load_checkpoint(path, args.device)
        config = Config(**(saved["config"] | {"data": args.data}))
        dataset = build_dataset(config, "test")
        figures, whole = report(predict(model, dataset, args.device, args.workers), dataset, args.resamples)
        first = first or whole
        differences = np.nanmean(whole.resamples, axis=1) - np.nanmean(first.resamples, axis=1)
        figures["difference_from_first"] = {
            "mean_auroc": round(float(whole.mean - first.mean), 4),
            "interval": interval(*np.percentile(differences, [2.5, 97.5])),
        }
        name = config.model if config.model not in results else str(path)
        results[name] = figures | {
            "images": len(dataset),
            "patients": len(np.unique(dataset.patient)),
            "resamples": args.resamples,
            "training": {key: saved[key] for key in ("config", "epoch", "val_auroc", "commit", "versions")},
            "log": [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()],
        }
    print(markdown(results))
    for name, figures in list(results.items())[1:]:
        difference = figures["difference_from_first"]
        print(
            f"\n{name} minus {next(iter(results))}: {difference['mean_auroc']:+.3f}, interval {difference['interval']}"
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps({"evaluated_at_commit": commit(), "results": results}, indent=1) + "\n")
        os.replace(partial, args.json)


if __name__ == "__main__":
    main()
