"""Make a model folder of the best run of a study: weights in half precision, calibration and a manifest.

    python -m nih.ship runs/study --data nih-10k.zip --output runs/shipped --about "Which films."

The folder opens with `causalcxr.create_model(Path(folder))`. Of the seeds of the variant the best by validation is
taken. The calibration is fitted on the validation logits of the weights as they are written.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

import causalcxr
from causalcxr.metrics import expected_calibration_error
from confounding.runs import write_json

from .films import fingerprint, parts, read_tables
from .variants import VARIANTS


def ship(study: Path, data: Path, variant: str, output: Path, about: str) -> dict[str, Any]:
    """Write the folder; return the manifest."""
    content = json.loads((study / "results.json").read_text())
    runs = [run for run in content["runs"] if run["variant"] == variant and run["finished"]]
    if not runs or not VARIANTS[variant].causal or VARIANTS[variant].model_args:
        raise ValueError(f"{study} has no finished run of {variant!r}, or create_model does not build it by its name")
    best = max(runs, key=lambda run: run["val_auroc"])
    setting = best["setting"]
    with np.load(study / "scores.npz") as scores:
        logits, films = scores[f"{best['name']}/val"].astype(float), str(scores["val_films"])
    tables = read_tables(data)
    val = tables.select(parts(tables)["val"][: len(logits)])
    if fingerprint(val.names) != films:
        raise ValueError("the validation films of --data are not those of the run")
    # F1, since Youden's J takes no notice of how rare a finding is and would mark most of them on any film.
    calibration = causalcxr.Calibration.fit(logits, val.targets, criterion="f1")
    unchanged = dataclasses.replace(calibration, temperature=1.0)
    model = causalcxr.create_model(setting["backbone"])
    model.load_state_dict(load_file(study / "runs" / f"{best['name']}.safetensors"))
    size = setting["image_size"]
    causalcxr.save_pretrained(
        model.half(), output, calibration=calibration, data_config={"input_size": (3, size, size)}
    )
    weights = output / "model.safetensors"
    errors = {
        name: round(float(expected_calibration_error(fitted.probabilities(logits), val.targets).mean()), 4)
        for name, fitted in {"before": unchanged, "after": calibration}.items()
    }
    manifest = {
        "model": setting["backbone"],
        "variant": variant,
        "about": about,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "seed": best["seed"],
        "epoch": best["best_epoch"],
        "val_auroc": best["val_auroc"],
        "val_images": len(val),
        "setting": setting,
        "calibration": dataclasses.asdict(calibration),
        "val_calibration_error": errors,
        "commit": content["commit"],
        "versions": content["versions"],
    }
    write_json(output / "manifest.json", manifest)
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output of study.py")
    parser.add_argument("--data", type=Path, required=True, help="the films of the run, packed or a folder")
    parser.add_argument("--variant", default="causal", help="default: causal")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--about", required=True, help="which films of the release these are")
    args = parser.parse_args(argv)
    manifest = ship(args.study, args.data, args.variant, args.output, args.about)
    print(f"{manifest['bytes'] / 1e6:.1f} MB, validation AUROC {manifest['val_auroc']:.3f}")


if __name__ == "__main__":
    main()
