"""Measure how much the scores of validation films depend on how the films were stored.

    python -m nih.storage runs/stored --data nih-10k --output runs/storage.json

Evaluates every finished run of a causal model on the films of `--data` as they are, and stored as JPEG.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import causalcxr
from causalcxr.data.nih_tables import read_nih_tables
from causalcxr.metrics import expected_calibration_error
from records import commit, markdown_table, publish, versions

from .films import parts, read_pixels
from .training import logits_of, mean_auroc
from .variants import VARIANTS, open_run
from .views import stored

QUALITY = 75


def finished_runs(study: Path) -> list[dict[str, Any]]:
    """Return the records of finished runs whose model `causalcxr.create_model` builds by name."""
    runs = json.loads((study / "results.json").read_text())["runs"]
    usable = [name for name, variant in VARIANTS.items() if variant.causal and not variant.model_args]
    return [run for run in runs if run["finished"] and run["variant"] in usable]


def measure(
    model: nn.Module, films: Tensor, targets: npt.NDArray[np.float32], size: int
) -> tuple[causalcxr.Calibration, dict[str, float]]:
    """Fit a calibration on uint8 films (N, S, S); return it and the results, with those of the JPEG copies as `jpeg_*`.

    `change` is the mean absolute change of a probability. `positives` is the number of findings per film at or above
    their threshold.
    """
    exact = torch.autocast("cpu", enabled=False)
    logits = {"": logits_of(model, films, size, exact), "jpeg_": logits_of(model, stored(films, QUALITY), size, exact)}
    # F1, because Youden's J ignores the prevalence and would mark most findings on every film.
    calibration = causalcxr.Calibration.fit(logits[""], targets, criterion="f1")
    probabilities = {name: calibration.probabilities(values) for name, values in logits.items()}
    results = {"change": float((probabilities["jpeg_"] - probabilities[""]).abs().mean())}
    for name, p in probabilities.items():
        results[f"{name}auroc"] = mean_auroc(logits[name], targets)
        results[f"{name}brier"] = float((p - torch.from_numpy(targets)).square().mean())
        results[f"{name}calibration_error"] = float(np.nanmean(expected_calibration_error(p, targets)))
        results[f"{name}positives"] = float(calibration.positives(logits[name]).sum(dim=1).double().mean())
    return calibration, {name: round(value, 5) for name, value in results.items()}


def table(runs: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table with one row per run."""
    body = [[name, *(f"{value:.4f}" for value in row.values())] for name, row in runs.items()]
    return markdown_table(["run", *next(iter(runs.values()))], body) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output of study.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of the original films of the run")
    parser.add_argument("--output", type=Path, help="JSON file; the table is written next to it")
    args = parser.parse_args(argv)
    tables = read_nih_tables(args.data)
    rows = parts(tables)["val"]
    films, targets = torch.from_numpy(read_pixels(args.data)[rows]), tables.targets[rows]
    results = {}
    for run in finished_runs(args.study):
        model = open_run(args.study / "runs" / f"{run['name']}.safetensors")
        _, results[run["name"]] = measure(model, films, targets, run["setting"]["image_size"])
    about = {
        "data": args.data.name,
        "films": len(films),
        "quality": QUALITY,
        "commit": commit(),
        "versions": versions(),
    }
    publish(args.output, about | {"runs": results}, table(results))


if __name__ == "__main__":
    main()
