"""Measure how time and memory of a training step grow, and draw it.

    python examples/benchmarks/growth.py --json docs/results/benchmarks/growth_cpu.json --plot docs/images/growth.png

Along resolution and batch it is the step of the whole model and of its plain backbone; along width, labels and bank
size that of the causal head alone on the map of a 512 px image, since the backbone does not depend on them. A step is
forward and backward, without an optimizer. Needs the extra `[train]`, and about a quarter of an hour on two cores.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F

from causalcxr import CausalHead, CausalObjective, create_model
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss
from measuring import environment, in_turns, peak_memory, read_results, say, write_results

Step = Callable[[], None]
KEYS = ("seconds", "peak_bytes")
HEAD = {"batch": 2, "width": 256, "labels": 14, "bank": 1024}


def model_step(name: str, device: str, *, size: int, batch: int) -> Step:
    """Return a training step of a causal model, or of a plain one."""
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    targets = (torch.rand(batch, 14, device=device) < 0.1).float()
    if name.startswith("causal"):
        model = create_model(name).to(device, memory_format=torch.channels_last)
        objective = CausalObjective(model)
        return partial(_backward, lambda: objective(images, targets)["loss"], model)
    model = timm.create_model(name, num_classes=14, output_stride=16).to(device, memory_format=torch.channels_last)
    return partial(_backward, lambda: F.binary_cross_entropy_with_logits(model(images), targets), model)


def head_step(device: str, **changed: int) -> Step:
    """Return a training step of the causal head with a bank that is full."""
    sizes = HEAD | changed
    head = CausalHead(2048, sizes["labels"], dim=sizes["width"]).to(device)
    features = torch.randn(sizes["batch"], 2048, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    targets = (torch.rand(sizes["batch"], sizes["labels"], device=device) < 0.1).float()
    bank = ConfounderBank(sizes["bank"], sizes["labels"], sizes["width"], device=device)
    bank.update(torch.randn_like(bank.stored))
    criterion = CausalLoss()

    def loss() -> torch.Tensor:
        return criterion(head(features, bank.stored.clone()), targets, prior=bank.slot_prior)["loss"]

    return partial(_backward, loss, head)


def _backward(loss: Callable[[], torch.Tensor], module: torch.nn.Module) -> None:
    loss().backward()
    module.zero_grad()


def axes(model: str, plain: str, device: str) -> dict[str, tuple[tuple[int, ...], Callable[[int], dict[str, Step]]]]:
    """Return for each axis its values and the steps to measure at a value."""

    def both(**sizes: int) -> dict[str, Step]:
        return {name: model_step(name, device, **sizes) for name in (model, plain)}

    return {
        "resolution": ((128, 256, 384, 512, 768, 1024), lambda size: both(size=size, batch=1)),
        "batch": ((1, 2, 4, 8), lambda batch: both(size=256, batch=batch)),
        "width": ((64, 128, 256, 512, 1024), lambda width: {"head": head_step(device, width=width)}),
        "labels": ((14, 50, 100, 200), lambda labels: {"head": head_step(device, labels=labels)}),
        "bank": ((256, 1024, 4096, 16384), lambda bank: {"head": head_step(device, bank=bank)}),
    }


def measure(axis: str, value: int, steps: dict[str, Step], device: str) -> list[dict[str, Any]]:
    """Return one point of each curve."""
    times = in_turns(steps, rounds=5, warmup=1, device=device)
    return [
        {
            "axis": axis,
            "value": value,
            "of": name,
            "seconds": float(np.median(took)),
            "peak_bytes": peak_memory(steps[name], device)["tensors"],
        }
        for name, took in times.items()
    ]


def curves(points: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the points by axis and by what was measured, in the order of their values."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault((point["axis"], point["of"]), []).append(point)
    return {key: sorted(curve, key=lambda p: p["value"]) for key, curve in found.items()}


def exponent(before: dict[str, Any], after: dict[str, Any], key: str) -> float:
    """Return the power of growth between two points; along the resolution it is that of the number of pixels."""
    steps = math.log(after["value"] / before["value"]) * (2 if after["axis"] == "resolution" else 1)
    return math.log(after[key] / before[key]) / steps


def table(points: list[dict[str, Any]]) -> str:
    """Return the points as Markdown."""
    lines = ["| along | of | value | time | its power | peak memory | its power |", "|---|---|---|---|---|---|---|"]
    for (axis, name), curve in curves(points).items():
        for before, point in zip([None, *curve], curve, strict=False):
            powers = (
                ["", ""] if before is None else [f"{exponent(before, point, k):.2f}" for k in ("seconds", "peak_bytes")]
            )
            lines.append(
                f"| {axis} | `{name}` | {point['value']:,} | {point['seconds'] * 1e3:,.0f} ms | {powers[0]} "
                f"| {point['peak_bytes'] / 2**20:,.0f} MiB | {powers[1]} |"
            )
    return "\n".join(lines)


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory along each axis, on logarithmic scales, with a line of power one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(point["axis"] for point in points))
    figure, panels = plt.subplots(2, len(names), figsize=(3.2 * len(names), 5.6), squeeze=False, layout="constrained")
    rows = (("seconds", 1.0, "time of a step (s)"), ("peak_bytes", 2.0**20, "peak memory (MiB)"))
    for panel_row, (key, unit, label) in zip(panels, rows, strict=True):
        for panel, axis in zip(panel_row, names, strict=True):
            for (of_axis, name), curve in curves(points).items():
                if of_axis != axis:
                    continue
                values = [p["value"] ** (2 if axis == "resolution" else 1) for p in curve]
                heights = [p[key] / unit for p in curve]
                panel.plot(values, heights, marker="o", label=name)
                panel.plot(values, [heights[-1] * v / values[-1] for v in values], color="0.7", ls="--", zorder=0)
            panel.set(xscale="log", yscale="log", xlabel="pixels" if axis == "resolution" else axis)
            panel.minorticks_off()
            ticks = list(dict.fromkeys(p["value"] for p in points if p["axis"] == axis))
            panel.set_xticks([t ** (2 if axis == "resolution" else 1) for t in ticks], [_tick(axis, t) for t in ticks])
            panel.tick_params(axis="x", labelsize=7)
            panel.legend(fontsize=7, frameon=False)
        panel_row[0].set_ylabel(label)
    figure.suptitle("dashed: in proportion, from the last point backwards", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tick(axis: str, value: int) -> str:
    return f"{value}²" if axis == "resolution" else f"{value:,}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="causal_resnet101")
    parser.add_argument("--plain", default="resnet101", help="the timm model to show beside it")
    parser.add_argument("--axes", nargs="+", default=["resolution", "batch", "width", "labels", "bank"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keep the results there; a run that was stopped goes on")
    parser.add_argument("--plot", type=Path, help="draw them there")
    args = parser.parse_args(argv)
    results = read_results(args.json)
    for axis in args.axes:
        values, steps = axes(args.model, args.plain, args.device)[axis]
        for value in values:
            key = f"{axis} {value}"
            if key in results:
                continue
            say(f"{key} ...")
            torch.manual_seed(0)
            results[key] = {
                "points": measure(axis, value, steps(value), args.device),
                "seed": 0,
                "environment": environment(args.device),
            }
            write_results(args.json, args.device, results)
    points = [point for result in results.values() for point in result["points"]]
    print(table(points))
    if args.plot:
        plot(points, args.plot)


if __name__ == "__main__":
    main()
