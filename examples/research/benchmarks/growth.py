"""Measure how time and memory of a training step grow, and draw it.

    python -m benchmarks.growth --json benchmarks/results/growth_cpu.json --plot ../../docs/images/growth.png

Along resolution and batch it is the step of the whole model and of its plain backbone; along width, labels and bank
size that of the causal head alone on the map of a 512 px image, since the backbone does not depend on them. A step is
forward and backward, without an optimizer. Needs the extra `[train]`, and about a quarter of an hour on two cores.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

from causalcxr import CausalHead, CausalObjective, create_model
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss

from .measuring import Results, Side, in_turns, markdown_table, peak_memory

MODELS = ("causal_resnet101", "resnet101")
AXES = {
    "resolution": (128, 256, 384, 512, 768, 1024),
    "batch": (1, 2, 4, 8),
    "width": (64, 128, 256, 512, 1024),
    "labels": (14, 50, 100, 200),
    "bank": (256, 1024, 4096, 16384),
}


def model_step(name: str, *, size: int = 256, batch: int = 1) -> Side:
    """Return a training step of a causal model, or of a plain one."""
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = (torch.rand(batch, 14) < 0.1).float()
    if name.startswith("causal"):
        model = create_model(name).to(memory_format=torch.channels_last)
        objective = CausalObjective(model)
        return partial(_backward, lambda: objective(images, targets)["loss"], model)
    model = timm.create_model(name, num_classes=14, output_stride=16).to(memory_format=torch.channels_last)
    return partial(_backward, lambda: F.binary_cross_entropy_with_logits(model(images), targets), model)


def head_step(*, batch: int = 2, width: int = 256, labels: int = 14, bank: int = 1024) -> Side:
    """Return a training step of the causal head with a bank that is full."""
    head = CausalHead(2048, labels, dim=width)
    features = torch.randn(batch, 2048, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = (torch.rand(batch, labels) < 0.1).float()
    confounders = ConfounderBank(bank, labels, width)
    confounders.update(torch.randn(bank, labels, width))
    criterion = CausalLoss()

    def loss() -> torch.Tensor:
        return criterion(head(features, confounders.features.clone()), targets, prior=confounders.prior)["loss"]

    return partial(_backward, loss, head)


def _backward(loss: Callable[[], torch.Tensor], module: torch.nn.Module) -> None:
    loss().backward()
    module.zero_grad()


def point(axis: str, value: int) -> dict[str, Any]:
    """Measure one value of an axis."""
    if axis in ("resolution", "batch"):
        sizes = {"size": value} if axis == "resolution" else {"batch": value}
        steps = {name: model_step(name, **sizes) for name in MODELS}
    else:
        steps = {"head": head_step(**{axis: value})}
    times = in_turns(steps, rounds=3)
    return {
        "points": [
            {"axis": axis, "value": value, "of": name, "seconds": statistics.median(took)}
            | {"peak_bytes": peak_memory(steps[name])}
            for name, took in times.items()
        ]
    }


Curves = dict[tuple[str, str], list[dict[str, Any]]]


def curves(rows: dict[str, dict[str, Any]]) -> Curves:
    """Return the points by axis and by what was measured, in the order of their values."""
    found: Curves = {}
    for each in itertools.chain.from_iterable(row["points"] for row in rows.values()):
        found.setdefault((each["axis"], each["of"]), []).append(each)
    return {key: sorted(curve, key=lambda p: p["value"]) for key, curve in found.items()}


def exponent(before: dict[str, Any], after: dict[str, Any], key: str) -> float:
    """Return the power of growth between two points; along the resolution it is that of the number of pixels."""
    steps = math.log(after["value"] / before["value"]) * (2 if after["axis"] == "resolution" else 1)
    return math.log(after[key] / before[key]) / steps


def table(rows: dict[str, dict[str, Any]]) -> str:
    body = []
    for (axis, name), curve in curves(rows).items():
        for before, each in zip([None, *curve], curve, strict=False):
            powers = [f"{exponent(before, each, key):.2f}" if before else "" for key in ("seconds", "peak_bytes")]
            time, memory = f"{each['seconds'] * 1e3:,.0f} ms", f"{each['peak_bytes'] / 2**20:,.0f} MiB"
            body.append([axis, f"`{name}`", f"{each['value']:,}", time, powers[0], memory, powers[1]])
    return markdown_table(["along", "of", "value", "time", "its power", "peak memory", "its power"], body)


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw time and memory along each axis, on logarithmic scales, with a line of power one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = curves(rows)
    axes = list(dict.fromkeys(axis for axis, _ in found))
    figure, panels = plt.subplots(2, len(axes), figsize=(3.2 * len(axes), 5.6), squeeze=False, layout="constrained")
    kinds = (("seconds", 1.0, "time of a step (s)"), ("peak_bytes", 2.0**20, "peak memory (MiB)"))
    for panel_row, (key, unit, label) in zip(panels, kinds, strict=True):
        for panel, axis in zip(panel_row, axes, strict=True):
            power = 2 if axis == "resolution" else 1
            for (_, name), curve in ((of, curve) for of, curve in found.items() if of[0] == axis):
                values, heights = [p["value"] ** power for p in curve], [p[key] / unit for p in curve]
                panel.plot(values, heights, marker="o", label=name)
                panel.plot(values, [heights[-1] * v / values[-1] for v in values], color="0.7", ls="--", zorder=0)
            panel.set(xscale="log", yscale="log", xlabel="pixels" if power == 2 else axis)
            panel.minorticks_off()
            ticks = [p["value"] for p in curve]
            names = [f"{t}²" if power == 2 else f"{t:,}" for t in ticks]
            panel.set_xticks([t**power for t in ticks], names, fontsize=7)
            panel.legend(fontsize=7, frameon=False)
        panel_row[0].set_ylabel(label)
    figure.suptitle("dashed: in proportion, from the last point backwards", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    parser.add_argument("--plot", type=Path, help="draw them there")
    args = parser.parse_args(argv)
    results = Results(args.json)
    for axis in args.axes:
        for value in AXES[axis]:
            results.measure(f"{axis} {value}", partial(point, axis, value))
    results.finish(table)
    if args.plot:
        plot(results.rows, args.plot)


if __name__ == "__main__":
    main()
