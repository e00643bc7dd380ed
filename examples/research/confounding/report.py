"""Tables and plots of the confounding benchmark."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from .runs import markdown_table

Runs = list[dict[str, Any]]

REFERENCE = "plain, not confounded"
SMALLEST_GAP = 0.02  # of AUROC between the reference and plain training, for parts of it to mean something


def markdown(runs: Runs) -> str:
    """A table for each experiment, means over seeds."""
    experiments = dict.fromkeys((run["images"], run["confounder"], run["correlation"]) for run in runs)
    return "\n\n".join(_table(runs, *experiment) for experiment in experiments)


def overview(runs: Runs) -> str:
    """AUROC of the reversed test, means over seeds: a row for each method, a column for each experiment."""
    experiments = list(dict.fromkeys((run["images"], run["confounder"], run["correlation"]) for run in runs))
    methods = [REFERENCE, *dict.fromkeys(run["method"] for run in runs)]
    body = [[method] for method in methods]
    for images, confounder, correlation in experiments:
        chosen = [run for run in runs if (run["images"], run["confounder"]) == (images, confounder)]
        for row in body:
            value = _curve(chosen, row[0]).get(correlation)
            row.append("" if value is None else f"{value:.3f}")
    several = len({images for images, *_ in experiments}) > 1
    names = [f"{images}, {kind} {at:g}" if several else f"{kind} {at:g}" for images, kind, at in experiments]
    return markdown_table(["method", *names], body)


def auroc(run: dict[str, Any], test: str) -> float:
    return run["result"]["tests"][test]["auroc"]["value"]


def mean_over_seeds(runs: Runs, value: Callable[[dict[str, Any]], float]) -> float:
    return fmean(value(run) for run in runs)


def _named(run: dict[str, Any]) -> str:
    """The method, and whether it was trained without confounding."""
    return f"{run['method']}, not confounded" if run["trained_at"] == 0.5 else run["method"]


def _table(runs: Runs, images: str, confounder: str, correlation: float) -> str:
    chosen = [
        run
        for run in runs
        if (run["images"], run["confounder"], run["correlation"]) == (images, confounder, correlation)
    ]
    groups: dict[str, Runs] = {}
    for run in chosen:
        groups.setdefault(_named(run), []).append(run)
    reversed_of = {name: mean_over_seeds(group, lambda run: auroc(run, "reversed")) for name, group in groups.items()}
    best, worst = reversed_of[REFERENCE], reversed_of.get("plain")
    body = []
    for name, group in groups.items():
        tests = group[0]["result"]["tests"]
        known = worst is not None and group[0]["trained_at"] != 0.5 and best - worst >= SMALLEST_GAP
        closed = f"{(reversed_of[name] - worst) / (best - worst):.0%}" if known else ""
        body.append(
            [
                name,
                *(f"{mean_over_seeds(group, lambda run, t=test: auroc(run, t)):.3f}" for test in tests),
                closed,
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['none']['worst_group']['value']):.3f}",
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['none']['shift']):+.3f}",
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['reversed']['ece']):.3f}",
                *(_optional([run["result"][name] for run in group]) for name in ("probe_causal", "probe_confounder")),
                _optional([_on_marker(run["result"]["tests"]["none"]) for run in group], "{:.1f}"),
            ]
        )
    header = [
        "method",
        *chosen[0]["result"]["tests"],
        "gap closed",
        "worst group, none",
        "shift, none",
        "ECE, reversed",
        "probe of h_x",
        "probe of h_c",
        "map on marker / area",
    ]
    seeds = sorted({run["seed"] for run in chosen})
    title = f"**{images}, {confounder}, correlation {correlation:g}** (AUROC, mean over seeds {seeds})"
    return f"{title}\n\n{markdown_table(header, body)}"


def _on_marker(figures: dict[str, Any]) -> float | None:
    """Share of the causal map on the marker, in parts of the marker's share of the image: 1 for a flat map."""
    share, area = figures.get("attention_share"), figures.get("area_share")
    return None if share is None or area is None else share / area


def _optional(values: list[float | None], style: str = "{:.3f}") -> str:
    known = [value for value in values if value is not None]
    return style.format(fmean(known)) if len(known) == len(values) else ""


def plot(runs: Runs, path: Path) -> None:
    """AUROC of the reversed test against the correlation in training, means over seeds, a panel an experiment.

    The reference is dashed. Methods that have one correlation where others have several are left out.
    """
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((run["images"], run["confounder"]) for run in runs))
    curves = {
        (method, *panel): _curve([run for run in runs if (run["images"], run["confounder"]) == panel], method)
        for panel in panels
        for method in (*dict.fromkeys(run["method"] for run in runs), REFERENCE)
    }
    several = any(len(curve) > 1 for (method, *_), curve in curves.items() if method != REFERENCE)
    shown = list(dict.fromkeys(method for (method, *_), curve in curves.items() if len(curve) > several))
    colours = plt.get_cmap("tab10" if len(shown) <= 10 else "tab20").colors
    styles = {method: {"color": colours[i % len(colours)]} for i, method in enumerate(shown)}
    styles[REFERENCE] = {"color": "0.3", "ls": "--"}
    size = (3.2 * len(panels), 4.0)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, (images, confounder) in zip(axes[0], panels, strict=True):
        for method in shown:
            curve = curves[method, images, confounder]
            axis.plot(list(curve), list(curve.values()), marker="o", ms=3, label=method, **styles[method])
        axis.set(title=f"{images}: {confounder}", xlabel="correlation in training")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AUROC, reversed test")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(runs: Runs, name: str) -> dict[float, float]:
    """Mean AUROC of the reversed test at each correlation, of a method or of the reference."""
    points: dict[float, list[float]] = {}
    for run in runs:
        if _named(run) == name:
            points.setdefault(run["correlation"], []).append(auroc(run, "reversed"))
    return {correlation: fmean(points[correlation]) for correlation in sorted(points)}
