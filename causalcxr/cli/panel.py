"""One picture for one radiograph: the film, and where the model looked for its highest scores."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from causalcxr.data.image import resize_image
from causalcxr.explain import overlay

__all__ = ["Finding", "require_matplotlib", "save_panel"]

SIDE, DPI = 720, 160  # pixels of the longer side of a picture, and of an inch
LEFT, TOP, BELOW, RIGHT, GAP = 0.18, 0.78, 0.42, 1.0, 0.12  # inches around and between the pictures
INK, FAINT = "#1c1c28", "#6b6b78"
OPACITY = 0.6


class Finding(NamedTuple):
    """A label with its score and its causal map."""

    label: str
    score: float
    heat_map: Tensor
    """(h, w), at any resolution."""


def require_matplotlib() -> None:
    """Raise `ImportError`, naming the extra, unless panels can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("heat maps need matplotlib: pip install matplotlib") from error


def save_panel(path: Path, image: Tensor, findings: list[Finding], title: str, note: str) -> None:
    """Draw the radiograph beside the overlays of the findings, and save the picture as PNG.

    Args:
        path: File to write; it appears when it is complete.
        image: (1, H, W) radiograph with values in [0, 1], before normalisation.
        findings: What to show, the highest score first.
        title: Written above.
        note: Written below.
    """
    require_matplotlib()
    scale = SIDE / max(image.shape[1:])
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    figure = _draw(resize_image(image, (height, width)), findings, title, note)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=DPI)
    partial.replace(path)


def _draw(grey: Tensor, findings: list[Finding], title: str, note: str) -> Any:
    from matplotlib.figure import Figure

    height, width = (pixels / DPI for pixels in grey.shape[1:])
    columns = 1 + len(findings)
    figure_width = LEFT + columns * (width + GAP) + RIGHT
    figure = Figure(figsize=(figure_width, TOP + height + BELOW), facecolor="white")

    def add_axes(left: float, bottom: float, width: float, height: float) -> Any:
        size = figure.get_size_inches()
        return figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))

    axes = [add_axes(LEFT + column * (width + GAP), BELOW, width, height) for column in range(columns)]
    axes[0].imshow(np.repeat(grey.numpy().transpose(1, 2, 0), 3, axis=2))
    axes[0].set_title("Radiograph", loc="left", fontsize=11, color=FAINT)
    for axis, finding in zip(axes[1:], findings, strict=True):
        axis.imshow(overlay(grey, finding.heat_map, alpha=OPACITY))
        axis.set_title(finding.label.replace("_", " "), loc="left", fontsize=11, color=INK)
        axis.set_title(f"{finding.score:.2f}", loc="right", fontsize=11, fontweight="bold", color=INK)
    for axis in axes:
        axis.set_axis_off()
    _draw_colour_bar(add_axes(LEFT + columns * (width + GAP) + GAP, BELOW, 0.14, height))
    edge = LEFT / figure_width
    figure.text(edge, 1 - 0.14 / (TOP + height + BELOW), title, fontsize=13, fontweight="bold", color=INK, va="top")
    figure.text(edge, 0.13 / (TOP + height + BELOW), note, fontsize=8.5, color=FAINT)
    return figure


def _draw_colour_bar(axis: Any) -> None:
    """Draw the colours as they look over a middle grey, since they are as opaque as the value is high."""
    ramp = np.linspace(0, 1, 256)[:, None]
    axis.imshow(overlay(np.full((256, 1), 0.5), ramp, alpha=OPACITY), origin="lower", aspect="auto")
    axis.yaxis.tick_right()
    axis.set_yticks([0, 255], ["lowest", "highest"], fontsize=9, color=FAINT)
    axis.get_yticklabels()[0].set_va("bottom")
    axis.get_yticklabels()[1].set_va("top")
    axis.yaxis.set_label_position("right")
    axis.set_ylabel("evidence", fontsize=9, color=FAINT, labelpad=-24)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_frame_on(False)
