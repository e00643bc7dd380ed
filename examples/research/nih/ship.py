"""Make a model folder from the best run of a study or a search: weights in half precision, calibration and card.

    python -m nih.ship runs/study --data nih-10k --output runs/shipped --about "Which films."

`causalcxr.create_model(Path(folder))` opens the folder. It holds the run of the variant with the best validation score.
The calibration is fitted on the validation films of `--data`, and the card reports the results on its test films.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import read_nih_tables
from causalcxr.metrics import bootstrap_auroc
from records import write_json

from .films import parts, read_pixels
from .report import MIN_PATIENTS, judged_in_both_views, patients_with, ranking_figures, summary, with_interval
from .storage import QUALITY, finished_runs, measure
from .training import logits_of
from .variants import open_run

LICENSE = "apache-2.0"  # of the starting weights
TRAINING = """
## Training

- **Films:** {about} NIH ChestX-ray14 was provided by the NIH Clinical Center (Wang et al., CVPR 2017).
- **Splits:** the official lists. A fifth of the training patients was used to select the epoch. No patient is in two
  splits.
- **Start:** {start}timm's ImageNet weights (Apache-2.0).
{teachers}- **Run:** seed {seed}, epoch {best_epoch} of {epochs}, validation AUROC {val_auroc:.3f}, commit
  `{commit}`. `manifest.json` lists all options.
- **Calibration:** fitted on {films} validation films, where the calibration error is {calibration_error:.3f}. The
  thresholds maximise F1, for rare findings over very few positives. A validation film has {there:.2f} findings, and
  {positives:.2f} reach their threshold. A test film has {present:.2f}, and {found:.2f} reach their threshold.
- **Storage:** the AUROC of the original validation films is {auroc:.3f}. Stored as JPEG of quality {quality}, it is
  {jpeg_auroc:.3f}, but probabilities change by {change:.3f} on average, and {jpeg_positives:.2f} findings per film
  reach their threshold. Do not rely on thresholds for small films that were stored differently.
"""
TEACHERS = """\
- **Teachers:** {count} models trained on the same films. Their mean probabilities for each view of a film replace its
  labels in the loss.
"""
VIEWS = """\
- **Frequent findings:** the mean AUROC of the {frequent} findings that at least ten test patients have is
  {mean_of_frequent}.
- **Views:** the mean AUROC of the {both} findings that at least ten patients have in each view is {within_AP} within AP
  films, {within_PA} within PA films, and {mean_of_both_views} over all films.
"""


def ship(study: Path, data: Path, variant: str, output: Path, about: str) -> dict[str, Any]:
    """Write the folder; return the manifest."""
    content = json.loads((study / "results.json").read_text())
    if not (runs := [run for run in finished_runs(study) if run["variant"] == variant]):
        raise ValueError(f"{study} has no finished run of {variant!r}, or create_model does not build it by its name")
    best = max(runs, key=lambda run: run["val_auroc"])
    source = best | content  # earlier studies have one commit for all runs
    size = best["setting"]["image_size"]
    model = open_run(study / "runs" / f"{best['name']}.safetensors")
    tables, pixels = read_nih_tables(data), torch.from_numpy(read_pixels(data))
    rows = parts(tables)
    val, test = (tables.select(rows[part]) for part in ("val", "test"))
    calibration, storage = measure(model, pixels[rows["val"]], val.targets, size)
    test_logits = logits_of(model, pixels[rows["test"]], size, torch.autocast("cpu", enabled=False))
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
    figures = ranking_figures(test_logits.double().numpy(), test, 2000)
    manifest = {
        "about": about,
        **{key: best[key] for key in ("variant", "seed", "best_epoch", "val_auroc", "setting")},
        **{key: source[key] for key in ("start", "teachers", "commit", "versions") if key in source},
        "films": {"train": best["films"], "val": len(val), "test": len(test)},
        "storage": storage,
        "test": metrics["auroc"],
        "test_means": {name: summary([figure]) for name, figure in figures.items()},
    }
    write_json(output / "manifest.json", manifest)
    start = f"weights with the SHA-256 sum `{content['start']}`, trained from " if "start" in content else ""
    teachers = TEACHERS.format(count=len(content["teachers"])) if "teachers" in content else ""
    of_storage = storage | {"films": len(val), "quality": QUALITY}
    training = TRAINING.format(
        **manifest | of_storage | {"start": start, "teachers": teachers},
        epochs=best["setting"]["epochs"],
        there=val.targets.sum(axis=1).mean(),
        present=test.targets.sum(axis=1).mean(),
        found=calibration.positives(test_logits).sum(dim=1).double().mean(),
    )
    means = {name: with_interval(of, "{:.3f}") for name, of in manifest["test_means"].items()}
    with (output / "README.md").open("a", encoding="utf-8") as card:
        card.write(training)
        if "within_AP" in means:
            frequent = (patients_with(test.targets, test.patient) >= MIN_PATIENTS).sum()
            card.write(VIEWS.format(frequent=frequent, both=judged_in_both_views(test).sum(), **means))
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output of study.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of the original films of the run")
    parser.add_argument("--variant", default="causal", help="default: causal")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--about", required=True, help="which films of the release these are")
    args = parser.parse_args(argv)
    manifest = ship(args.study, args.data, args.variant, args.output, args.about)
    print(f"seed {manifest['seed']}, validation AUROC {manifest['val_auroc']:.3f}")


if __name__ == "__main__":
    main()
