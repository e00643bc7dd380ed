"""Make a model folder of the best run of a study: weights in half precision, calibration and a manifest.

    python -m nih.ship runs/study --data nih-10k.zip --output runs/shipped --about "Which films."

The folder opens with `causalcxr.create_model(Path(folder))`. Of the seeds of the variant the best by validation is
taken. The calibration is fitted on the validation logits of the weights as they are written.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

import causalcxr
from records import write_json

from .films import read_tables, scored_films
from .variants import VARIANTS


def ship(study: Path, data: Path, variant: str, output: Path, about: str) -> dict[str, Any]:
    """Write the folder; return the manifest."""
    content = json.loads((study / "results.json").read_text())
    runs = [run for run in content["runs"] if run["variant"] == variant and run["finished"]]
    if not runs or not VARIANTS[variant].causal or VARIANTS[variant].model_args:
        raise ValueError(f"{study} has no finished run of {variant!r}, or create_model does not build it by its name")
    best = max(runs, key=lambda run: run["val_auroc"])
    with np.load(study / "scores.npz") as scores:
        logits, films = scores[f"{best['name']}/val"].astype(float), str(scores["val_films"])
    targets = scored_films("val", read_tables(data), films).targets
    # F1, since Youden's J takes no notice of how rare a finding is and would mark most of them on any film.
    calibration = causalcxr.Calibration.fit(logits, targets, criterion="f1")
    model = causalcxr.create_model(best["setting"]["backbone"])
    model.load_state_dict(load_file(study / "runs" / f"{best['name']}.safetensors"))
    size = best["setting"]["image_size"]
    config = {"input_size": (3, size, size)}
    causalcxr.save_pretrained(model.half(), output, calibration=calibration, data_config=config)
    manifest = {
        "model": best["setting"]["backbone"],
        "about": about,
        "sha256": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
        **{key: best[key] for key in ("variant", "seed", "best_epoch", "val_auroc", "setting")},
        **{key: content[key] for key in ("commit", "versions")},
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
    print(f"seed {manifest['seed']}, validation AUROC {manifest['val_auroc']:.3f}")


if __name__ == "__main__":
    main()
