"""Tables and plots of the confounding benchmark."""

from pathlib import Path
from statistics import fmean
from typing import Any

from records import markdown_table

Runs = list[dict[str, Any]]

REFERENCE = "plain, not confounded"
SMALLEST_GAP = 0.02  # in AUROC between reference and plain training; below it, fractions are noise


def grouped(runs: Runs) -> dict[tuple[str, str, float], dict[str, Runs]]:
    """Group runs by experiment (images, confounder, correlation) and name of the method."""
    groups: dict[tuple[str, str, float], dict[str, Runs]] = {}
    for run in runs:
        name = f"{run['method']}, not confounded" if run["trained_at"] == 0.5 else run["method"]
        experiment = run["images"], run["confounder"], run["correlation"]
        groups.setdefault(experiment, {}).setdefault(name, []).append(run)
    return groups


def auroc(runs: Runs, test: str = "reversed") -> float:
    """Return the AUROC of a test, averaged over seeds."""
    return fmean(run["result"]["tests"][test]["auroc"]["value"] for run in runs)


def markdown(runs: Runs) -> str:
    """Return an overview and a table per experiment, averaged over seeds.

    The overview has the AUROC of the reversed test: one row per method, one column per experiment.
    """
    groups = grouped(runs)
    names = [REFERENCE, *dict.fromkeys(run["method"] for run in runs)]
    body = [[name, *(f"{auroc(of[name]):.3f}" if name in of else "" for of in groups.values())] for name in names]
    columns = [f"{confounder} {correlation:g}" for _, confounder, correlation in groups]
    tables = [markdown_table(["method", *columns], body)]
    for experiment, of_methods in groups.items():
        seeds = sorted({run["seed"] for of_method in of_methods.values() for run in of_method})
        title = "**{}, {}, correlation {:g}**".format(*experiment)
        tables.append(f"{title} (AUROC, mean over seeds {seeds})\n\n{_table(of_methods)}")
    return "\n\n".join(tables)


def _table(of_methods: dict[str, Runs]) -> str:
    """Return all results of an experiment. `gap closed` is 0 % for plain training and 100 % for the reference."""
    tests = list(of_methods[REFERENCE][0]["result"]["tests"])
    best, worst = auroc(of_methods[REFERENCE]), auroc(of_methods["plain"])
    body = []
    for name, runs in of_methods.items():
        closed = runs[0]["trained_at"] != 0.5 and best - worst >= SMALLEST_GAP
        results = [run["result"] for run in runs]
        body.append(
            [
                name,
                *(f"{auroc(runs, test):.3f}" for test in tests),
                f"{(auroc(runs) - worst) / (best - worst):.0%}" if closed else "",
                *(_mean([result.get(probe) for result in results]) for probe in ("probe_causal", "probe_confounder")),
            ]
        )
    header = ["method", *tests, "gap closed", "probe of h_x", "probe of h_c"]
    return markdown_table(header, body)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else ""


def plot(runs: Runs, path: Path) -> None:
    """Plot the AUROC of the reversed test against the correlation in training, averaged over seeds.

    The reference is dashed. Methods with a single correlation are left out, unless all have only one.
    """
    import matplotlib.pyplot as plt

    panels: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for (images, confounder, correlation), of_methods in grouped(runs).items():
        curves = panels.setdefault((images, confounder), {})
        for name, of_method in of_methods.items():
            curves.setdefault(name, {})[correlation] = auroc(of_method)
    names = [*dict.fromkeys(run["method"] for run in runs), REFERENCE]
    several = [name for name in names if any(len(curves.get(name, {})) > 1 for curves in panels.values())]
    shown = several or names
    colours = plt.get_cmap("tab10" if len(shown) <= 10 else "tab20").colors
    styles = {name: {"color": colours[i % len(colours)]} for i, name in enumerate(shown)}
    styles[REFERENCE] = {"color": "0.3", "ls": "--"}
    size = (3.2 * len(panels), 4.0)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, ((images, confounder), curves) in zip(axes[0], panels.items(), strict=True):
        for name in shown:
            points = sorted(curves.get(name, {}).items())
            axis.plot(*zip(*points, strict=True) if points else ([], []), marker="o", ms=3, label=name, **styles[name])
        axis.set(title=f"{images}: {confounder}", xlabel="correlation in training")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AUROC, reversed test")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
