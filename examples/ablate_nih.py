"""Train variants of one recipe over several seeds and compare them, with paired intervals over patients.

    python examples/ablate_nih.py examples/studies/recipe.json --data path/to/nih --output runs/recipe --split val
    python examples/ablate_nih.py examples/studies/table2.json --data path/to/nih-512 --output runs/table2 \
        --backbone-weights timm --split test --launch "torchrun --nproc-per-node 8"

A study is a JSON file: `base` are options of train_nih.py, `variants` name the options that differ, `seeds` are those
of the training runs, and every variant is compared with the one called `baseline`. A run has the folder
OUTPUT/VARIANT-seedN. Run the same command again to go on where it stopped: finished runs are not repeated. All choices
belong to `--split val`; `--split test` is for the final report, once.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import train_nih
from atomic import write_json, write_text
from causalcxr.data import NIH_LABELS
from causalcxr.metrics import bootstrap_auroc, paired_difference
from provenance import commit, fingerprint
from recipe import Config
from report import rows, with_interval
from scoring import Scored, check_comparable, score


class Study(NamedTuple):
    """What is trained and compared."""

    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    seeds: list[int]
    baseline: str

    def options(self, variant: str, seed: int) -> dict[str, Any]:
        """Options of train_nih.py of one run."""
        return self.base | self.variants[variant] | {"seed": seed}


def read_study(path: Path) -> Study:
    """Read a study; every option must be one of train_nih.py, of its type."""
    content = json.loads(path.read_text())
    if set(content) != set(Study._fields):
        raise ValueError(f"{path} has {sorted(content)}, expected {sorted(Study._fields)}")
    study = Study(**content)
    if study.baseline not in study.variants:
        raise ValueError(f"{path}: the baseline {study.baseline!r} is none of the variants {list(study.variants)}")
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    for name, options in {"base": study.base, **study.variants}.items():
        for option, value in options.items():
            kind = kinds.get(option)
            if kind is None or option in ("seed", "output", "preset"):
                raise ValueError(
                    f"{path}: {name} has {option!r}, which is no option of a study; there are {list(kinds)}"
                )
            if not isinstance(value, kind) and not (kind is float and type(value) is int):
                raise ValueError(f"{path}: {name} has {option}={value!r}, expected a value of type {kind.__name__}")
    for name in study.variants:
        Config(**study.options(name, seed=0))  # raises for values that are not known
    return study


def train(options: dict[str, Any], folder: Path, launch: list[str]) -> None:
    """Train in a process of its own, from where an earlier attempt stopped; do nothing if it is finished."""
    last = folder / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        if len(saved["log"]) == saved["config"]["epochs"] and not train_nih.changed_options(
            saved["config"], Config(**options)
        ):
            return
    flags = [_flag(name, value) for name, value in {**options, "output": str(folder)}.items()]
    subprocess.run([*launch, train_nih.__file__, *flags], check=True)  # which refuses a folder with other options


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value}"


def compare(runs: dict[str, list[Scored]], baseline: str, dataset: Any, resamples: int) -> dict[str, Any]:
    """Return the figures of each variant; intervals are over patients, of means over the variant's runs."""
    targets, patient = dataset.targets.numpy(), dataset.patient
    options = {"n_resamples": resamples, "seed": 0}
    figures: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare label may lack positives in a resample; it is left out of its mean
        base = np.stack([run.headline for run in runs[baseline]])
        results = {
            name: [bootstrap_auroc(run.headline, targets, patient, **options) for run in of_variant]
            for name, of_variant in runs.items()
        }
        for name, of_variant in runs.items():
            each = results[name]
            resampled = np.mean([result.resamples for result in each], axis=0)  # (n_resamples, K), of the mean run
            scores = np.stack([run.headline for run in of_variant])
            difference = paired_difference(scores, base, targets, patient, **options)
            lows, highs = np.nanpercentile(resampled, [2.5, 97.5], axis=0)
            figures[name] = {
                "mean_auroc": _rounded(np.mean([result.mean for result in each])),
                "interval": [_rounded(end) for end in np.percentile(np.nanmean(resampled, axis=1), [2.5, 97.5])],
                "minus_baseline": _rounded(difference.mean),
                "minus_baseline_interval": [_rounded(difference.mean_low), _rounded(difference.mean_high)],
                "labels": {
                    label: {
                        "auroc": _rounded(np.mean([result.auroc[k] for result in each])),
                        "interval": [_rounded(lows[k]), _rounded(highs[k])],
                    }
                    for k, label in enumerate(NIH_LABELS)
                },
                "runs": [
                    {
                        "seed": run.seed,
                        "mean_auroc": _rounded(result.mean),
                        "minus_baseline": _rounded(result.mean - of_seed.mean),
                        "training": run.saved,
                    }
                    for run, result, of_seed in zip(of_variant, each, results[baseline], strict=True)
                ],
            }
    return figures


def _rounded(value: float) -> float:
    return round(float(value), 4)


def verdict(figures: dict[str, Any], baseline: str) -> str:
    """Say in a sentence which variants do better than the baseline: by the interval, and with every seed."""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    for name, of_variant in figures.items():
        low, high = of_variant["minus_baseline_interval"]
        by_seed = [run["minus_baseline"] for run in of_variant["runs"]]
        if name != baseline:
            better, worse = low > 0 and min(by_seed) > 0, high < 0 and max(by_seed) < 0
            kinds["better than" if better else "worse than" if worse else "not told apart from"].append(name)
    parts = [f"{kind} {baseline}: {', '.join(names) or 'none'}" for kind, names in kinds.items()]
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]


def table(figures: dict[str, Any], baseline: str, split: str, dataset: Any) -> str:
    """Return the comparison as Markdown: the verdict, a row a variant, a row a finding."""
    body = []
    for name, of_variant in figures.items():
        runs = of_variant["runs"]
        below, above = of_variant["minus_baseline_interval"]
        cells = [
            name,
            ", ".join(str(run["seed"]) for run in runs),
            with_interval(of_variant, "mean_auroc"),
            ", ".join(f"{run['mean_auroc']:.3f}" for run in runs),
        ]
        if name == baseline:
            cells += ["", ""]
        else:
            cells.append(f"{of_variant['minus_baseline']:+.3f} ({below:+.3f}, {above:+.3f})")
            cells.append(", ".join(f"{run['minus_baseline']:+.3f}" for run in runs))
        body.append(cells)
    header = ["variant", "seeds", f"mean AUROC of 14, {split}", "of each seed", f"minus {baseline}", "of each seed"]
    note = (
        f"{len(dataset)} images of {len(np.unique(dataset.patient))} patients; 95 % intervals over patients, of the "
        "mean over these seeds: the chance of training again is not in them."
    )
    if split == "val":
        note += " The epochs were chosen on these same images."
    findings = [[k, *(with_interval(f["labels"][k], "auroc") for f in figures.values())] for k in NIH_LABELS]
    parts = [
        verdict(figures, baseline),
        rows(header, body),
        note,
        rows(["finding, mean over seeds", *figures], findings),
    ]
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="JSON file, see examples/studies")
    parser.add_argument("--data", required=True, help="folder in the layout of the NIH release, or synthetic:NUMBER")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--split", choices=("val", "test"), required=True, help="what the variants are compared on")
    parser.add_argument("--backbone-weights", help="path of a file, or timm to download; default: what the study says")
    parser.add_argument("--variants", nargs="+", help="only these and the baseline; default: all")
    parser.add_argument("--baseline", help="variant to compare with; default: what the study says")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these; default: those of the study")
    parser.add_argument(
        "--launch", default="", help="how to start train_nih.py, such as torchrun; default: this Python"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to score")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    parser.add_argument("--json", type=Path, help="write the figures there, and the table beside it as Markdown")
    args = parser.parse_args(argv)
    study = read_study(args.study)
    study.base["data"] = args.data
    if args.backbone_weights is not None:
        study.base["backbone_weights"] = args.backbone_weights
    baseline = args.baseline or study.baseline
    names = args.variants or list(study.variants)
    if unknown := [name for name in [*names, baseline] if name not in study.variants]:
        parser.error(f"unknown variants {unknown}; there are {list(study.variants)}")
    names = [baseline, *(name for name in names if name != baseline)]
    seeds = args.seeds or study.seeds
    launch = shlex.split(args.launch) or [sys.executable]
    runs: dict[str, list[Scored]] = {name: [] for name in names}
    for seed in seeds:  # seed by seed, so that a study that is stopped early has all variants of the first seeds
        for name in names:
            folder = args.output / f"{name}-seed{seed}"
            print(f"{folder.name}: {study.options(name, seed)}", file=sys.stderr, flush=True)
            train(study.options(name, seed), folder, launch)
            runs[name].append(score(folder / "best.pt", args.split, args.device))
            check_comparable(runs[name][-1], runs[baseline][0])
    dataset = runs[baseline][0].dataset
    figures = compare(runs, baseline, dataset, args.resamples)
    text = table(figures, baseline, args.split, dataset)
    print(text)
    if args.json:
        content = {
            "study": args.study.stem,
            "split": args.split,
            "baseline": baseline,
            "images": fingerprint(dataset),
            "resamples": args.resamples,
            "commit": commit(),
            "variants": figures,
        }
        write_json(args.json, content)
        write_text(args.json.with_suffix(".md"), text + "\n")


if __name__ == "__main__":
    main()
