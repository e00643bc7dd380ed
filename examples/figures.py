"""Figures of an evaluation: ROC curves, reliability, heat maps beside boxes, classifiers by epoch."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from causalcxr.data import NIH_LABELS
from causalcxr.explain import overlay
from causalcxr.metrics import reliability_curve

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

Scores = dict[str, npt.NDArray[Any]]  # model to (N, K)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_roc(scores: Scores, targets: npt.NDArray[Any], path: Path) -> None:
    """Draw the ROC curves of each label, a line a model."""
    figure, axes = plt.subplots(2, 7, figsize=(17, 5.4), sharex=True, sharey=True, layout="constrained")
    for k, (label, axis) in enumerate(zip(NIH_LABELS, axes.flat, strict=True)):
        positives = int(targets[:, k].sum())
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
        if 0 < positives < len(targets):
            for name, values in scores.items():
                axis.plot(*roc_curve(targets[:, k], values[:, k])[:2], linewidth=1.2, label=name)
        axis.set_title(f"{label.replace('_', ' ')} ({positives})", fontsize=10)
        axis.set_aspect("equal")
    figure.supxlabel("false positive rate")
    figure.supylabel("true positive rate")
    figure.legend(*axes.flat[int(targets.sum(axis=0).argmax())].get_legend_handles_labels(), loc="outside upper center")
    save(figure, path)


def draw_reliability(probabilities: Scores, targets: npt.NDArray[Any], path: Path) -> None:
    """Draw the frequency of findings against their predicted probability, over all labels, with the counts below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 6), sharex=True, height_ratios=(3, 1), layout="constrained")
    above.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    for name, values in probabilities.items():
        curve = reliability_curve(values.reshape(-1, 1), targets.reshape(-1, 1))
        above.plot(curve.confidence[0], curve.frequency[0], marker="o", label=name)
        below.plot(curve.confidence[0], curve.size[0], marker="o")
    above.set(ylabel="frequency of the finding", xlim=(0, 1), ylim=(0, 1), title="Reliability, all labels together")
    below.set(xlabel="predicted probability", ylabel="number", yscale="log")
    above.legend()
    save(figure, path)


def draw_training(log: list[dict[str, Any]], path: Path) -> None:
    """Draw the validation AUROC of each classifier by epoch, as Fig. 4 of arXiv 2305.12072."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in log[0]["val_auroc"]:
        axis.plot([r["epoch"] for r in log], [r["val_auroc"][name] for r in log], marker="o", label=name)
    axis.set(xlabel="epoch", ylabel="validation AUROC, mean of 14", title="The classifiers while training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    axis.grid(alpha=0.3)
    save(figure, path)


class Panel(NamedTuple):
    """A row of `draw_panels`."""

    image: npt.NDArray[Any]  # (1, H, W), in [0, 1]
    label: int
    boxes: list[tuple[float, ...]]  # x, y, w, h in parts of the side
    maps: dict[str, Any]  # heat maps by title


def draw_panels(rows: list[Panel], path: Path) -> None:
    """Draw images with their boxes beside heat maps, as Fig. 1 of arXiv 2305.12072."""
    titles = ["image", *rows[0].maps]
    figure, axes = plt.subplots(
        len(rows), len(titles), figsize=(2.4 * len(titles), 2.55 * len(rows)), squeeze=False, layout="constrained"
    )
    for row, (image, label, boxes, maps) in zip(axes, rows, strict=True):
        pictures = [np.repeat(image.transpose(1, 2, 0), 3, axis=2), *(overlay(image, heat) for heat in maps.values())]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture)
            for x, y, w, h in np.array(boxes) * image.shape[-1]:
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, color="tab:cyan", linewidth=1))
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(NIH_LABELS[label].replace("_", " "))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    save(figure, path)
