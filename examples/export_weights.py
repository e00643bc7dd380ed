"""Write a trained causal model as weights for the package: half precision, with manifest and model card.

    python examples/export_weights.py runs/nih/best-seed0/best.pt --data path/to/nih --tag nih --about "All images."

Writes MODEL.TAG.safetensors, MODEL.TAG.json and MODEL.TAG.md into `causalcxr/weights`. What the card reports is
measured on the official test list with the weights as written, after rounding. The calibration is fitted on the
validation scores of the run, before rounding; `scores-val.npz` beside the checkpoint has them if they were computed.
"""

import argparse
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import causalcxr
from atomic import replacing, write_json, write_text
from causalcxr.layers import ConfounderBank
from causalcxr.metrics import expected_calibration_error
from groups import by_group, label_figures, quiet_bootstrap, summary
from provenance import commit, fingerprint
from recipe import Config, build_dataset
from report import rows, with_interval
from scoring import load_checkpoint, predict, score

# Options that say where a run was made and not what came of it.
PLACES = ("data", "output", "backbone_weights", "device", "workers")


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round floating-point tensors to half precision; raise where one is too large for it."""
    rounded = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    for name, value in rounded.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} does not fit in half precision: it reaches {state[name].abs().max():g}")
    return {name: value.contiguous() for name, value in rounded.items()}


def calibrate(logits: Any, targets: Any) -> dict[str, Any]:
    """Return the calibration, and its error before and after, on the images that it is fitted on."""
    # F1, since Youden's J takes no notice of how rare a finding is and would mark most of them on any image.
    calibration = causalcxr.Calibration.fit(logits, targets, criterion="f1")
    unchanged = dataclasses.replace(calibration, temperature=1.0)
    errors = {
        name: expected_calibration_error(fitted.probabilities(logits), targets).mean()
        for name, fitted in {"before": unchanged, "after": calibration}.items()
    }
    return {
        "calibration": dataclasses.asdict(calibration),
        "val_calibration_error": {name: round(float(error), 4) for name, error in errors.items()},
        "val_findings_an_image": marks(calibration, logits, targets),
    }


def marks(calibration: causalcxr.Calibration, logits: Any, targets: Any) -> dict[str, float]:
    """Return how many findings of an image reach their threshold, and how many are there, on average."""
    found = calibration.positives(logits).sum(dim=1).double().mean()
    return {"found": round(float(found), 2), "present": round(float(np.nansum(targets) / len(targets)), 2)}


def evaluate(
    model: torch.nn.Module,
    config: Config,
    dataset: Any,
    n_resamples: int,
    bank: ConfounderBank | None,
    calibration: causalcxr.Calibration,
) -> dict[str, Any]:
    """Return AUROC of each label, of their mean, and within groups, and what the thresholds mark."""
    scores = predict(model, dataset, config, "test", bank)["causal"]
    targets = dataset.targets.numpy()
    result = quiet_bootstrap(scores, targets, dataset.patient, n_resamples)
    return summary(result) | {
        "labels": label_figures(result, targets),
        "groups": by_group(scores, dataset, n_resamples),
        "findings_an_image": marks(calibration, scores, targets),
    }


def card(manifest: dict[str, Any]) -> str:
    """Return the model card."""
    test, config, lists = manifest["test"], manifest["config"], manifest["lists"]
    size, temperature = config["image_size"], manifest["calibration"]["temperature"]
    start = "ImageNet weights" if manifest["pretrained_backbone"] else "random weights"
    thresholds, error = manifest["calibration"]["thresholds"], manifest["val_calibration_error"]
    marked = {"val": manifest["val_findings_an_image"], "test": test["findings_an_image"]}
    labels = [
        [name, str(figures["positives"]), with_interval(figures, "auroc"), f"{threshold:.3f}"]
        for (name, figures), threshold in zip(test["labels"].items(), thresholds, strict=True)
    ]
    within = [
        [name, str(figures["images"]), with_interval(figures, "mean_auroc")] for name, figures in test["groups"].items()
    ]
    return f"""# {manifest["model"]}.{manifest["tag"]}

**Not for clinical use.** These weights show how the library works; they must not inform the care of any person.

- Model: `causalcxr.create_model("{manifest["model"]}", pretrained=True)`, 14 findings, images of {size} x {size} px in
  [0, 1], normalised with the mean and standard deviation of `model.pretrained_cfg`.
- Data: NIH ChestX-ray14 (Wang et al., CVPR 2017; provided by the NIH Clinical Center): {manifest["about"]}
  {lists["train"]["images"]} images to train, {lists["val"]["images"]} of other patients to choose the epoch. The labels
  were mined from reports and are known to be wrong in places.
- Split: the official lists; no patient is in two parts. The backbone started from {start}.
- Seed {config["seed"]}, epoch {manifest["epoch"]} of {config["epochs"]}, validation AUROC {manifest["val_auroc"]:.3f},
  commit `{manifest["commit"]}`. All options are in the manifest beside this file.

Mean AUROC of 14 on {manifest["test_images"]["images"]} images of the official test list:
**{with_interval(test, "mean_auroc")}**, with 95 % intervals from a bootstrap over patients.

{rows(["finding", "positives", "AUROC", "threshold"], labels)}

{rows(["mean AUROC within", "images", "AUROC"], within)}

Limits: few positives of rare findings (read the intervals); one hospital; mostly adults; frontal views; images far
smaller than those that radiologists read, so that small nodules cannot be seen. Films taken in bed (AP) are of sicker
patients, and part of what the model knows may be that.

Calibration: `model.calibration` was fitted on the validation images. Temperature {temperature:.3f}; expected
calibration error on the same images, mean of 14, {error["before"]:.4f} before and {error["after"]:.4f} after. The
thresholds, of calibrated probabilities, maximise F1 there, for rare findings over a handful of positives. On those
images {marked["val"]["found"]} findings an image reach theirs, where {marked["val"]["present"]} are present; on the
test list {marked["test"]["found"]}, where {marked["test"]["present"]} are. Nothing was validated.
"""


def export(
    checkpoint: Path, data: str, about: str, tag: str, output: Path, n_resamples: int, device: str
) -> dict[str, Any]:
    """Write weights, manifest and card; return the manifest."""
    exported_at = commit()  # before files are written, which change the checkout
    model, bank, saved = load_checkpoint(checkpoint, device)
    if not isinstance(model, causalcxr.CausalCXR) or data.startswith("synthetic:"):
        raise ValueError(
            f"only causal models trained on NIH images are published, not {saved['config']['model']} on {data}"
        )
    for name in ("complement", "output_stride"):  # they change the model, but not the shape of any weight
        if saved["config"][name] != getattr(Config, name):
            raise ValueError(
                f"trained with {name}={saved['config'][name]!r}, but create_model builds the model with its default; "
                f"publish a run without --{name.replace('_', '-')}"
            )
    state = half(model.state_dict())
    model = causalcxr.create_model(saved["config"]["model"]).to(device).eval()  # what users get is what is measured
    model.load_state_dict(state)
    config = Config(**(saved["config"] | {"data": data, "device": device}))
    if (found := fingerprint(build_dataset(config, "val"))) != saved["lists"]["val"]:
        raise ValueError(
            f"{data} has other validation images or labels than the run, and may have its training images among them: "
            f"{found}, {saved['lists']['val']}; give the --data that it was trained on"
        )
    validation = score(checkpoint, "val", device, data=data)
    dataset = build_dataset(config, "test")
    calibrated = calibrate(validation.headline, validation.dataset.targets.numpy())
    calibration = causalcxr.Calibration(**calibrated["calibration"])
    test = evaluate(model, config, dataset, n_resamples, bank, calibration)
    name = f"{config.model}.{tag}"
    weights = output / f"{name}.safetensors"
    with replacing(weights) as partial:
        save_file({key: value.cpu() for key, value in state.items()}, partial)
    manifest = {
        "model": config.model,
        "tag": tag,
        "about": about,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        **{key: saved[key] for key in ("label_names", "epoch", "val_auroc", "lists", "commit", "versions")},
        "config": {key: value for key, value in saved["config"].items() if key not in PLACES},
        "pretrained_backbone": bool(saved["config"]["backbone_weights"]),
        **calibrated,
        "test_images": fingerprint(dataset),
        "test": test | {"resamples": n_resamples},
        "exported_at_commit": exported_at,
    }
    write_json(output / f"{name}.json", manifest)
    write_text(output / f"{name}.md", card(manifest))
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="best.pt of a run of a causal model")
    parser.add_argument("--data", required=True, help="folder in the layout of the NIH release")
    parser.add_argument("--about", required=True, help="sentences for the card: which images of the release these are")
    parser.add_argument("--tag", required=True, help="name of the weights within the registry")
    default = Path(__file__).resolve().parents[1] / "causalcxr" / "weights"
    parser.add_argument("--output", type=Path, default=default, help="default: causalcxr/weights")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    manifest = export(args.checkpoint, args.data, args.about, args.tag, args.output, args.resamples, args.device)
    size = (args.output / f"{manifest['model']}.{args.tag}.safetensors").stat().st_size
    print(f"{size / 1e6:.1f} MB, test AUROC {with_interval(manifest['test'], 'mean_auroc')}")


if __name__ == "__main__":
    main()
