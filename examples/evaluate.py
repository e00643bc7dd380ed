"""Evaluate trained models on your own radiographs, or on NIH ChestX-ray14 next to Table 1 of the paper.

    python examples/evaluate.py runs/causal runs/plain --data path/to/nih --output results
    python examples/evaluate.py runs/causal --data path/to/nih --labels radiologists.csv
    python examples/evaluate.py runs/mine --data test/films.csv

Prints the AUROC of each label with 95 % intervals over patients, the mean AUROC within AP and within PA views, and the
calibration error. Writes one JSON file per model, e.g. MODEL/nih-test.json or results/MODEL-test-films-all.json, which
`causalcxr.push_to_hub(..., metrics=)` can add to the model card. Warns of films of patients in the training data.
Further models are compared with the first on the same resamples of patients. Do not select models on test images.
"""

import argparse
import csv
import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import causalcxr
from causalcxr.data import NIH_LABELS, CSVDataset, NIHChestXray14, SyntheticCXR
from causalcxr.metrics import bootstrap_auroc, expected_calibration_error, paired_difference

# Table 1 of arXiv 2305.12072, column "Ours", in the order of NIH_LABELS, on the official split according to the paper.
PAPER = (0.81, 0.94, 0.91, 0.75, 0.89, 0.76, 0.82, 0.91, 0.82, 0.90, 0.94, 0.84, 0.77, 0.94)
MEANINGS = {"1": 1.0, "yes": 1.0, "0": 0.0, "no": 0.0}


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="output folders of train.py, or names of pretrained models")
    parser.add_argument("--data", required=True, help="FILE.csv, folder of the NIH release, or synthetic:NUMBER")
    parser.add_argument("--labels", type=Path, help="CSV of other labels, 0/1 or YES/NO, one row per image")
    parser.add_argument("--split", default="test", choices=["test", "val"], help="default: test, or all of FILE.csv")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="as in training, for --split val; default: 0.1")
    parser.add_argument("--output", type=Path, help="folder for the JSON files; default: each model's own")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples; default: 2000")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="threads that load images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.output and len({Path(name).name for name in args.models}) < len(args.models):
        parser.error("--output needs models that differ in the last part of their path, which names their files")
    args.split = "all" if args.data.endswith(".csv") and args.split == "test" else args.split
    return args


def build_data(args, model):
    size = tuple(model.pretrained_cfg["input_size"][1:])
    if args.data.startswith("synthetic:"):
        return SyntheticCXR(int(args.data.removeprefix("synthetic:")), image_size=size, seed=2)
    options = {"image_size": size, "val_fraction": args.val_fraction}
    if args.data.endswith(".csv"):
        return CSVDataset(args.data, args.split, label_names=model.label_names, **options)
    return NIHChestXray14(args.data, args.split, **options)


def other_labels(path, dataset):
    """Read targets (N, K) from a CSV file, matched by image name; NaN where it says neither yes nor no."""

    def plain(name):
        return name.replace("_", " ").strip().lower()

    names, labels = dataset.names, dataset.label_names
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    columns = {plain(column): k for k, column in enumerate(rows[0])}
    judged = [label for label in labels if plain(label) in columns]
    if not judged:
        raise SystemExit(f"--labels: no column of {path} is a label of the model; it has {rows[0]}")
    found = {row[0]: row for row in rows[1:]}  # the first column names the image
    targets = np.full((len(names), len(labels)), np.nan, np.float32)
    for i, name in enumerate(names):
        for label in judged if name in found else ():
            cell = found[name][columns[plain(label)]].strip().lower()
            targets[i, labels.index(label)] = MEANINGS.get(cell.removesuffix(".0"), np.nan)
    if np.isnan(targets).all():
        raise SystemExit(f"--labels: {path} has no labels for any of the {len(names)} images")
    return targets


def predict(args, model, dataset):
    """Return the logits (N, K) of all images."""
    films = (dataset[i][0] for i in range(len(dataset))) if isinstance(dataset, SyntheticCXR) else dataset.paths
    rows = causalcxr.predict(model.to(args.device), films, batch_size=args.batch_size, workers=args.workers or 1)
    logits = []
    for _, scores, error in tqdm(rows, "images", len(dataset), leave=False):
        if error is not None:
            raise SystemExit(str(error))
        logits.append(scores)
    return torch.stack(logits)


def figures(args, model, logits, targets, dataset):
    """Return the AUROC of all images and of each view, and the calibration error, in the form of a model card."""
    views = {"auroc": np.ones(len(targets), bool)}
    view_of = getattr(dataset, "view", getattr(dataset, "metadata", {}).get("view", np.array([])))
    views |= {f"auroc_{view.lower()}": view_of == view for view in ("AP", "PA") if view in view_of}
    result = {"data": Path(args.data).name, "split": args.split, "labels": str(args.labels or "from the data")}
    result |= {"images": len(targets), "patients": len(np.unique(dataset.patient)), "resamples": args.resamples}
    result["commit"] = commit()
    for name, chosen in views.items():
        if len(np.unique(dataset.patient[chosen])) < 2:
            warnings.warn(f"{name}: fewer than two patients, so no interval: left out", stacklevel=2)
            continue
        boot = bootstrap_auroc(logits[chosen], targets[chosen], dataset.patient[chosen], n_resamples=args.resamples)
        result[name] = boot.by_label(dataset.label_names)
    calibration = getattr(model, "calibration", None)
    probabilities = calibration.probabilities(logits) if calibration else logits.sigmoid()
    errors = expected_calibration_error(probabilities, targets)
    return result | {"expected_calibration_error": round(float(np.nanmean(errors)), 4)}


def warn_of_training_patients(name, dataset):
    """Warn if the model was trained on patients of the dataset; train.py lists them in the model's folder."""
    if (file := Path(name, "train_patients.txt")).is_file() and hasattr(dataset, "paths"):
        known = np.isin(dataset.patient.astype(str), file.read_text().splitlines())
        if known.any():
            text = f"{known.sum()} of {len(known)} films have the patient names of films that {name} was trained on"
            warnings.warn(text, stacklevel=2)


def commit():
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(results, labels):
    """Return the results of all models as a Markdown table, one row per label; for NIH with those of the paper."""

    def cell(figure):
        known = figure and None not in figure.values()
        return "{value:.3f} ({low:.3f}, {high:.3f})".format(**figure) if known else "-"

    first = next(iter(results.values()))
    lines = [["label", "positives (patients)", *results], ["---"] * (len(results) + 2)]
    for label in labels:
        cells = [cell(result["auroc"].get(label)) for result in results.values()]
        row = first["auroc"].get(label)
        lines.append([label, "{positives} ({positive_groups})".format(**row) if row else "one class", *cells])
    for name, key in (("mean", "auroc"), ("mean, AP films", "auroc_ap"), ("mean, PA films", "auroc_pa")):
        if key in first:
            counts = "{labels} labels, {incomplete} resamples lack a label".format(**first[key]["mean"])
            lines.append([name, counts, *(cell(result[key]["mean"]) for result in results.values())])
    lines.append(["calibration error", "", *(f"{row['expected_calibration_error']:.3f}" for row in results.values())])
    if labels == NIH_LABELS:
        paper = ["paper", "---", *(f"{value:.2f}" for value in PAPER), "0.857", "", "", ""]
        lines = [[*line, figure] for line, figure in zip(lines, paper, strict=False)]  # FILE.csv may have no views
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(argv=None):
    args = parse_args(argv)
    warnings.filterwarnings("ignore", "AUROC is|calibration error is")  # for labels absent from a view
    opened, results, scores, labels = {}, {}, {}, ()
    for name in args.models:
        try:
            model = causalcxr.create_model(Path(name)) if Path(name).is_dir() else causalcxr.create_model(name, True)
            dataset = build_data(args, model)
            labels = labels or dataset.label_names  # of the first model, the reference
            for names in (model.label_names or (), dataset.label_names):
                causalcxr.data.check_label_names(names, labels)
            if len(np.unique(dataset.patient)) < 2:
                raise ValueError("intervals over patients need at least two")
            targets = dataset.targets.numpy() if args.labels is None else other_labels(args.labels, dataset)
        except (OSError, ValueError) as error:
            raise SystemExit(f"cannot evaluate {name} on {args.data}: {error}") from error
        warn_of_training_patients(name, dataset)
        opened[name] = model, dataset, targets
    for name, (model, dataset, targets) in opened.items():
        scores[name] = predict(args, model, dataset)
        results[name] = {"model": name} | figures(args, model, scores[name], targets, dataset)
        if len(scores) > 1:
            pair, groups = (scores[name], scores[args.models[0]]), dataset.patient
            difference = paired_difference(*pair, targets, groups, n_resamples=args.resamples).mean
            results[name]["difference"] = difference._asdict() | {"from": args.models[0]}
            print(f"{name} minus {args.models[0]}: mean AUROC {'{:+.4f} ({:+.4f}, {:+.4f})'.format(*difference)}")
    print(table(results, labels))
    data = [Path(part).resolve().name.removesuffix(".csv") for part in (args.data, args.labels) if part]
    data = [Path(args.data).resolve().parent.name, *data] if args.data.endswith(".csv") else data
    file = f"{'-'.join([*data, args.split])}.json".replace(":", "-")
    for name, result in results.items():
        path = args.output / f"{Path(name).name}-{file}" if args.output else Path(name, file)
        if args.output or path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".new").write_text(json.dumps(causalcxr.bench.as_dict(result), indent=1) + "\n")
            path.with_suffix(".new").replace(path)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
