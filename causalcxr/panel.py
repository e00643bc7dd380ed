"""Pictures of a radiograph with heat maps of its findings, all on one scale."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from causalcxr.data.image import read_image, resize_image
from causalcxr.explain import attention_maps, evidence_maps, overlay
from causalcxr.models import CausalCXR

__all__ = ["PANEL_SUFFIX", "Finding", "Panels", "save_panel"]

PANEL_SUFFIX = ".heatmap.png"
NUM_SHOWN = 3  # findings per panel, unless more are positive
EVIDENCE = ("Evidence for each finding.", "evidence (logit)")
ATTENTION = ("Where the model looks for each finding.", "attention")
NOTE = "* at or above its threshold. Research software, not a medical device, not for clinical use."

SIDE, DPI, COLUMNS = 720, 160, 4  # pixels of a picture's longer side and per inch; pictures per row
INK, FAINT = "#1c1c28", "#6b6b78"
OPACITY = 0.6


class Finding(NamedTuple):
    """A label with its score and heat map."""

    label: str
    score: float
    positive: bool  # at or above the label's threshold
    heat_map: Tensor  # (h, w), at any resolution


class Panels:
    """Draws panels into a folder that mirrors the paths of the images.

    `findings` are the labels to draw. Default: the positives, and the others with the highest scores up to a total of
    three. The maps are `evidence_maps`, or `attention_maps` if `attention` is set.
    """

    def __init__(self, model: Any, labels: list[str], folder: Path, findings: Sequence[str], attention: bool) -> None:
        if not isinstance(model, CausalCXR):
            raise ValueError("a plain timm model has no heat maps; drop --heatmap")
        if unknown := [name for name in findings if name not in labels]:
            raise ValueError(f"unknown finding {', '.join(unknown)}; the model has {', '.join(labels)}")
        _figure()
        folder.mkdir(parents=True, exist_ok=True)
        self.model, self.labels, self.folder = model, labels, folder
        self.findings, self.attention = list(dict.fromkeys(findings)), attention

    def draw(self, path: Path, scores: dict[str, float], positives: Sequence[str]) -> None:
        """Draw the panel of one image. Raises `OSError` if it cannot be written."""
        order = sorted(scores, key=lambda label: (label not in positives, -scores[label]))
        shown = self.findings or order[: max(NUM_SHOWN, len(positives))]
        indices = [self.labels.index(label) for label in shown]
        images = self.model.preprocess(path)
        if self.attention:
            maps = attention_maps(self.model, images)[0, indices].cpu()
        else:
            maps = evidence_maps(self.model, images, indices)[0].cpu()
        findings = [Finding(name, scores[name], name in positives, of) for name, of in zip(shown, maps, strict=True)]
        below = Path(os.path.abspath(path)) if path.anchor or ".." in path.parts else path
        target = self.folder / f"{below.relative_to(below.anchor)}{PANEL_SUFFIX}"
        target.parent.mkdir(parents=True, exist_ok=True)
        note, unit = ATTENTION if self.attention else EVIDENCE
        save_panel(target, read_image(path), findings, path.name, f"{note} {NOTE}", unit)


def save_panel(path: Path, image: Tensor, findings: list[Finding], title: str, note: str, unit: str) -> None:
    """Save the radiograph and the overlays of the findings as one PNG, written atomically.

    The image is (1, H, W) in [0, 1]. The title goes above, the note below, and the unit next to the colour bar.
    """
    scale = SIDE / max(image.shape[1:])
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    grey = resize_image(image, (height, width))
    pictures, highest = overlays(grey, findings)
    columns = min(COLUMNS, 1 + len(findings))
    rows = -(-(1 + len(findings)) // columns)
    size = (1.0 + columns * (width / DPI + 0.1), 0.7 + rows * (height / DPI + 0.3))  # with room for text
    figure = _figure()(figsize=size, layout="constrained", facecolor="white")
    title = title.encode(errors="replace").decode()  # file names may not be UTF-8, and are not formulas
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK, parse_math=False)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=FAINT)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(grey[0].numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title("Radiograph", loc="left", fontsize=11, color=FAINT)
    for axis, picture, finding in zip(axes.flat[1:], pictures, findings, strict=False):  # the last row may not be full
        axis.imshow(picture)
        if (most := float(finding.heat_map.max())) < highest / 5:
            box = {"facecolor": INK, "edgecolor": "none", "pad": 2}
            text = f"faint: at most {most:.2g}" if most > 0 else "no evidence"
            axis.text(0.03, 0.04, text, transform=axis.transAxes, fontsize=9, color="white", bbox=box)
        axis.set_title(finding.label.replace("_", " "), loc="left", fontsize=11, color=INK)
        mark = " *" if finding.positive else ""
        axis.set_title(f"{finding.score:.2f}{mark}", loc="right", fontsize=11, fontweight="bold", color=INK)
    bar = axes[0, -1].inset_axes((1.05, 0, 0.1, 1))
    bar.imshow(colour_bar(), origin="lower", aspect="auto")
    bar.yaxis.tick_right()
    bar.set_yticks([0, 255], ["0", f"{highest:.2g}"], fontsize=9, color=FAINT)
    bar.yaxis.set_label_position("right")
    bar.set_ylabel(unit, fontsize=9, color=FAINT, labelpad=-12)
    bar.set_xticks([])
    bar.set_title("film: dark to bright", fontsize=6.5, color=FAINT, loc="left")
    bar.tick_params(length=0)
    bar.set_frame_on(False)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})  # the default takes far longer
    partial.replace(path)


def overlays(grey: Tensor, findings: list[Finding]) -> tuple[list[npt.NDArray[np.uint8]], float]:
    """Return the overlays of all findings on one scale, and the maximum of the scale."""
    highest = max((float(finding.heat_map.max()) for finding in findings), default=0.0)
    highest = highest if highest > 0 else 1.0  # no evidence
    return [overlay(grey, finding.heat_map, alpha=OPACITY, vmax=highest) for finding in findings], highest


def colour_bar() -> npt.NDArray[np.uint8]:
    """Return all colours of an overlay (256, 256, 3): rows by value from 0 up, columns by film from black to white.

    A value has no single colour, since the film shows through.
    """
    ramp = np.linspace(0, 1, 256)
    return overlay(np.tile(ramp, (256, 1)), np.tile(ramp[:, None], (1, 256)), alpha=OPACITY, vmax=1.0)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("heat maps need matplotlib: pip install matplotlib") from error
    return Figure
