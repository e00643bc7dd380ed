"""Scores and heat maps of image files: what `causalcxr predict` does between its arguments and its output."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from causalcxr.cli.panel import Finding, save_panel
from causalcxr.cli.terminal import progress, reporting
from causalcxr.data.image import is_dicom, read_image
from causalcxr.data.transforms import preprocess
from causalcxr.explain import evidence_maps
from causalcxr.models import CausalCXR

__all__ = ["NOT_FOR_CLINICAL_USE", "PANEL_SUFFIX", "Prediction", "find_images", "score_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
PANEL_SUFFIX = ".heatmap.png"
NUM_SHOWN = 3  # findings of a panel
NOT_FOR_CLINICAL_USE = "Research software, not a medical device, not for clinical use."
NOTE = "What speaks for the highest scores, and where; colours run from none to the most of each map."


class Prediction(NamedTuple):
    """What a model says of one image."""

    path: Path
    scores: dict[str, float]
    """Probabilities by label, in the model's order; calibrated where the model is."""
    positives: list[str] | None
    """Labels at or above their threshold, in the model's order; None where the model has no thresholds."""


def find_images(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Find the images that files, folders and patterns name.

    Args:
        arguments: Files are taken as they are; of a folder and those below it, files with the ending of an image and
            DICOM files of any name.

    Returns:
        The files, each once, and what is wrong with arguments that name none.
    """
    found: dict[Path, None] = {}
    problems = []
    for argument in arguments:
        names = [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))
        files = [file for name in names for file in _files(Path(name))]
        if not files:
            problems.append(f"no image in folder {argument}" if os.path.isdir(argument) else f"no file {argument}")
        found |= dict.fromkeys(files)
    return list(found), problems


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if _is_image(file)) if path.is_dir() else [path]


def _is_image(file: Path) -> bool:
    if file.name.startswith(".") or file.name == "DICOMDIR" or file.name.endswith(PANEL_SUFFIX) or not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(132))
    except OSError:  # reading it later says why
        return True


def score_images(
    model: Any, labels: list[str], paths: list[Path], heatmap: Path | None, problems: list[str]
) -> Iterator[Prediction]:
    """Yield what the causal branch says of each image that can be read.

    Args:
        model: A causal model, or a plain one of timm from `create_model`, in evaluation mode.
        labels: The names of its outputs.
        paths: The images.
        heatmap: Folder for a panel of each image, laid out as the images are below their common folder.
        problems: What goes wrong is said and added here; the images after it are scored all the same.
    """
    shared = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    for path in progress(paths, "scoring", " images"):
        prediction = None
        with reporting(problems):
            images = _as_input(model, path)
            prediction = _predict(model, images, labels, path)
            if heatmap is not None:
                panel = heatmap / path.absolute().relative_to(shared)
                _save_heat_map(model, images, prediction, panel.with_name(panel.name + PANEL_SUFFIX))
        if prediction is not None:
            yield prediction


def _as_input(model: Any, path: Path) -> Tensor:
    if isinstance(model, CausalCXR):
        return model.preprocess(path)
    return preprocess(path, model.pretrained_cfg).to(next(model.parameters()))


@torch.inference_mode()
def _predict(model: Any, images: Tensor, labels: list[str], path: Path) -> Prediction:
    logits, calibration = model(images).float(), model.calibration
    if not bool(logits.isfinite().all()):
        raise ValueError(f"{path}: the scores of the model are not finite")
    probabilities = (calibration.probabilities(logits) if calibration else logits.sigmoid())[0].tolist()
    scores = {label: float(f"{value:.7g}") for label, value in zip(labels, probabilities, strict=True)}
    if calibration is None:
        return Prediction(path, scores, None)
    present = calibration.positives(logits)[0].tolist()
    return Prediction(path, scores, [label for label, positive in zip(labels, present, strict=True) if positive])


def _save_heat_map(model: CausalCXR, images: Tensor, prediction: Prediction, panel: Path) -> None:
    maps = dict(zip(prediction.scores, evidence_maps(model, images)[0].cpu(), strict=True))
    highest = sorted(prediction.scores.items(), key=lambda item: -item[1])[:NUM_SHOWN]
    findings = [Finding(label, score, maps[label]) for label, score in highest]
    panel.parent.mkdir(parents=True, exist_ok=True)
    save_panel(panel, read_image(prediction.path), findings, prediction.path.name, f"{NOTE}  {NOT_FOR_CLINICAL_USE}")
