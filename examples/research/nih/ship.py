"""Make a model folder of the best run of a study or a search: weights in half precision, calibration and card.

    python -m nih.ship runs/study --data nih-10k --output runs/shipped --about "Which films."

The folder opens with `causalcxr.create_model(Path(folder))`. Of all runs of the variant the best by validation is
taken. Its calibration is fitted on the validation films of `--data`, and the card has the figures of its test films. So
give the original films, not packed ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.metrics import bootstrap_auroc, expected_calibration_error
from records import write_json

from .films import parts, read_pixels, read_tables
from .report import judged_in_both_views, ranking_figures, summary, with_interval
from .training import logits_of, mean_auroc
from .variants import VARIANTS
from .views import stored

LICENSE = "apache-2.0"  # that of the weights it starts from
QUALITY = 75  # of JPEG, in which a film may have been stored
TRAINING = """
## Training

- **Films:** {about} NIH ChestX-ray14 was provided by the NIH Clinical Center (Wang et al., CVPR 2017).
- **Parts:** the official lists. A fifth of the training patients chose the epoch. No patient is in two parts.
- **Start:** timm's weights of ImageNet (Apache-2.0).
- **Run:** seed {seed}, epoch {best_epoch} of {epochs}, validation AUROC {val_auroc:.3f}, commit
  `{commit}`. `manifest.json` has every option.
- **Calibration:** fitted on {films} validation films, with an error of {error:.3f} there. The thresholds maximise F1,
  for rare findings over a handful of positives. A validation film has {there:.2f} findings, and {found_there:.2f} reach
  theirs. A test film has {present:.2f}, and {found:.2f} reach theirs.
- **Storage:** on the validation films as they are, the AUROC is {as_it_is:.3f}. If they are stored as JPEG of quality
  {quality}, it is {stored_auroc:.3f}, but probabilities differ by {off:.3f} on average, and {found_stored:.2f} findings
  a film reach their threshold. Trust no threshold on small films that were stored otherwise.
"""
VIEWS = """\
- **Views:** the mean AUROC of the {both} findings that ten patients have in each view is {within_AP} within AP films,
  {within_PA} within PA films, and {mean_of_both_views} over all.
"""


def ship(study: Path, data: Path, variant: str, output: Path, about: str) -> dict[str, Any]:
    """Write the folder; return the manifest."""
    content = json.loads((study / "results.json").read_text())
    runs = [run for run in content["runs"] if run["variant"] == variant and run["finished"]]
    if not runs or not VARIANTS[variant].causal or VARIANTS[variant].model_args:
        raise ValueError(f"{study} has no finished run of {variant!r}, or create_model does not build it by its name")
    best = max(runs, key=lambda run: run["val_auroc"])
    size = best["setting"]["image_size"]
    model = causalcxr.create_model(best["setting"]["backbone"])
    model.load_state_dict(load_file(study / "runs" / f"{best['name']}.safetensors"))
    tables, pixels = read_tables(data), torch.from_numpy(read_pixels(data))
    rows = parts(tables)
    val, test = (tables.select(rows[part]) for part in ("val", "test"))
    exact = torch.autocast("cpu", enabled=False)
    logits, test_logits = (logits_of(model, pixels[rows[part]], size, exact) for part in ("val", "test"))
    stored_logits = logits_of(model, stored(pixels[rows["val"]], QUALITY), size, exact)
    # F1, since Youden's J takes no notice of how rare a finding is and would mark most of them on any film.
    calibration = causalcxr.Calibration.fit(logits, val.targets, criterion="f1")
    metrics = {
        "data": "NIH ChestX-ray14, films of the study",
        "split": "test",
        "images": len(test),
        "patients": len(np.unique(test.patient)),
        "auroc": bootstrap_auroc(test_logits, test.targets, test.patient, n_resamples=2000).by_label(NIH_LABELS),
    }
    model.pretrained_cfg["license"] = LICENSE
    causalcxr.save_pretrained(
        model.half(),
        output,
        label_names=NIH_LABELS,
        calibration=calibration,
        metrics=metrics,
        data_config={"input_size": (3, size, size)},
    )
    manifest = {
        "about": about,
        **{key: best[key] for key in ("variant", "seed", "best_epoch", "val_auroc", "setting")},
        **{key: content[key] for key in ("commit", "versions")},
        "films": {"train": best["films"], "val": len(val), "test": len(test)},
        "test": metrics["auroc"],
    }
    write_json(output / "manifest.json", manifest)
    off = calibration.probabilities(stored_logits) - calibration.probabilities(logits)
    error = np.nanmean(expected_calibration_error(calibration.probabilities(logits), val.targets))
    found_there, found_stored, found = (
        calibration.positives(of).sum(dim=1).double().mean() for of in (logits, stored_logits, test_logits)
    )
    figures = ranking_figures(test_logits.double().numpy(), test, 2000)
    views = {name: with_interval(summary([figure]), "{:.3f}") for name, figure in figures.items()}
    training = TRAINING.format(
        **{**manifest, "films": len(val)},
        epochs=best["setting"]["epochs"],
        there=val.targets.sum(axis=1).mean(),
        found_there=found_there,
        found_stored=found_stored,
        error=error,
        present=test.targets.sum(axis=1).mean(),
        found=found,
        quality=QUALITY,
        off=off.abs().mean(),
        as_it_is=mean_auroc(logits, val.targets),
        stored_auroc=mean_auroc(stored_logits, val.targets),
    )
    with (output / "README.md").open("a", encoding="utf-8") as card:
        card.write(training)
        if "within_AP" in views:
            card.write(VIEWS.format(both=judged_in_both_views(test).sum(), **views))
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output of study.py")
    parser.add_argument(
        "--data", type=Path, required=True, help="the films of the run, as they were before they were packed"
    )
    parser.add_argument("--variant", default="causal", help="default: causal")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--about", required=True, help="which films of the release these are")
    args = parser.parse_args(argv)
    manifest = ship(args.study, args.data, args.variant, args.output, args.about)
    print(f"seed {manifest['seed']}, validation AUROC {manifest['val_auroc']:.3f}")


if __name__ == "__main__":
    main()
