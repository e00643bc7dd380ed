"""Tables and plots of the confounding benchmark."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from atomic import replacing
from report import rows

Runs = list[dict[str, Any]]

SMALLEST_GAP = 0.02  # of AUROC between the reference and plain training, for parts of it to mean something


def markdown(runs: Runs) -> str:
    """A table for each experiment, means over seeds."""
    experiments = dict.fromkeys((run["images"], run["confounder"], run["correlation"]) for run in runs)
    return "\n\n".join(_table(runs, *experiment) for experiment in experiments)


def auroc(run: dict[str, Any], test: str) -> float:
    return run["result"]["tests"][test]["auroc"]["value"]


def mean_over_seeds(runs: Runs, value: Callable[[dict[str, Any]], float]) -> float:
    return fmean(value(run) for run in runs)


def _table(runs: Runs, images: str, confounder: str, correlation: float) -> str:
    chosen = [
        run
        for run in runs
        if (run["images"], run["confounder"], run["correlation"]) == (images, confounder, correlation)
    ]
    groups: dict[tuple[str, float], Runs] = {}
    for run in chosen:
        groups.setdefault((run["method"], run["trained_at"]), []).append(run)
    reversed_of = {key: mean_over_seeds(group, lambda run: auroc(run, "reversed")) for key, group in groups.items()}
    best, worst = reversed_of["plain", 0.5], reversed_of.get(("plain", correlation))
    body = []
    for (method, trained_at), group in groups.items():
        tests = group[0]["result"]["tests"]
        known = worst is not None and trained_at != 0.5 and best - worst >= SMALLEST_GAP
        closed = f"{(reversed_of[method, trained_at] - worst) / (best - worst):.0%}" if known else ""
        body.append(
            [
                f"{method}, not confounded" if trained_at == 0.5 else method,
                *(f"{mean_over_seeds(group, lambda run, t=test: auroc(run, t)):.3f}" for test in tests),
                closed,
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['none']['worst_group']['value']):.3f}",
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['none']['shift']):+.3f}",
                f"{mean_over_seeds(group, lambda run: run['result']['tests']['reversed']['ece']):.3f}",
                *(_optional(group, name) for name in ("probe_causal", "probe_confounder")),
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
    ]
    seeds = sorted({run["seed"] for run in chosen})
    title = f"**{images}, {confounder}, correlation {correlation:g}** (AUROC, mean over seeds {seeds})"
    return f"{title}\n\n{rows(header, body)}"


def _optional(group: Runs, name: str) -> str:
    values = [run["result"][name] for run in group]
    return "" if None in values else f"{fmean(values):.3f}"


def plot(runs: Runs, path: Path) -> None:
    """AUROC of the reversed test against the correlation in training, a line a method and a panel an experiment."""
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((run["images"], run["confounder"]) for run in runs))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, sharey=True)
    for axis, (images, confounder) in zip(axes[0], panels, strict=True):
        chosen = [run for run in runs if (run["images"], run["confounder"]) == (images, confounder)]
        for method in dict.fromkeys(run["method"] for run in chosen):
            points: dict[float, Runs] = {}
            for run in chosen:
                if run["method"] == method and run["trained_at"] == run["correlation"]:
                    points.setdefault(run["correlation"], []).append(run)
            at = sorted(points)
            axis.plot(
                at,
                [mean_over_seeds(points[value], lambda run: auroc(run, "reversed")) for value in at],
                "o-",
                label=method,
            )
        axis.set(title=f"{images}: {confounder}", xlabel="correlation in training")
    axes[0, 0].set_ylabel("AUROC, reversed test")
    axes[0, -1].legend(fontsize=7)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)
