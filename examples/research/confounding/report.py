"""Tables and plots of the confounding benchmark."""

from pathlib import Path
from statistics import fmean
from typing import Any

from .runs import markdown_table

Runs = list[dict[str, Any]]

REFERENCE = "plain, not confounded"
SMALLEST_GAP = 0.02  # of AUROC between the reference and plain training, for parts of it to mean something


def markdown(runs: Runs) -> str:
    """An overview, and a table for each experiment; means over seeds.

    The overview has the AUROC of the reversed test: a row for each method, a column for each experiment.
    """
    tables = []
    rows: dict[str, list[str]] = {REFERENCE: [], **{run["method"]: [] for run in runs}}
    experiments = list(dict.fromkeys((run["images"], run["confounder"], run["correlation"]) for run in runs))
    for experiment in experiments:
        chosen = [run for run in runs if (run["images"], run["confounder"], run["correlation"]) == experiment]
        groups: dict[str, Runs] = {}
        for run in chosen:
            groups.setdefault(_named(run), []).append(run)
        reversed_of = {name: fmean(_auroc(run, "reversed") for run in group) for name, group in groups.items()}
        for name, row in rows.items():
            row.append(f"{reversed_of[name]:.3f}" if name in reversed_of else "")
        title = "**{}, {}, correlation {:g}**".format(*experiment)
        seeds = sorted({run["seed"] for run in chosen})
        tables.append(f"{title} (AUROC, mean over seeds {seeds})\n\n{_table(groups, reversed_of)}")
    names = [f"{confounder} {correlation:g}" for _, confounder, correlation in experiments]
    overview = markdown_table(["method", *names], [[name, *row] for name, row in rows.items()])
    return "\n\n".join([overview, *tables])


def _auroc(run: dict[str, Any], test: str) -> float:
    return run["result"]["tests"][test]["auroc"]["value"]


def _named(run: dict[str, Any]) -> str:
    """The method, and whether it was trained without confounding."""
    return f"{run['method']}, not confounded" if run["trained_at"] == 0.5 else run["method"]


def _table(groups: dict[str, Runs], reversed_of: dict[str, float]) -> str:
    """All figures of an experiment; `gap closed` is the part of the way from plain training to the reference."""
    tests = list(groups[REFERENCE][0]["result"]["tests"])
    best, worst = reversed_of[REFERENCE], reversed_of["plain"]
    body = []
    for name, group in groups.items():
        closed = group[0]["trained_at"] != 0.5 and best - worst >= SMALLEST_GAP
        results = [run["result"] for run in group]
        none = [result["tests"]["none"] for result in results]
        # Share of the causal map on the marker, in parts of the marker's share of the image: 1 for a flat map.
        on_marker = [f["attention_share"] / f["area_share"] for f in none if f.get("attention_share") is not None]
        body.append(
            [
                name,
                *(f"{fmean(_auroc(run, test) for run in group):.3f}" for test in tests),
                f"{(reversed_of[name] - worst) / (best - worst):.0%}" if closed else "",
                f"{fmean(figures['worst_group']['value'] for figures in none):.3f}",
                f"{fmean(figures['shift'] for figures in none):+.3f}",
                f"{fmean(result['tests']['reversed']['ece'] for result in results):.3f}",
                *(_optional([result[probe] for result in results]) for probe in ("probe_causal", "probe_confounder")),
                f"{fmean(on_marker):.1f}" if on_marker else "",
            ]
        )
    header = ["method", *tests, "gap closed", "worst group, none", "shift, none", "ECE, reversed"]
    return markdown_table([*header, "probe of h_x", "probe of h_c", "map on marker / area"], body)


def _optional(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else ""


def plot(runs: Runs, path: Path) -> None:
    """AUROC of the reversed test against the correlation in training, means over seeds, a panel an experiment.

    The reference is dashed. Methods with one correlation alone are left out, unless all have one.
    """
    import matplotlib.pyplot as plt

    values: dict[tuple[str, str], dict[str, dict[float, list[float]]]] = {}
    for run in runs:
        values.setdefault((run["images"], run["confounder"]), {})  # panels in their order
    for run in sorted(runs, key=lambda run: run["correlation"]):
        curve = values[run["images"], run["confounder"]].setdefault(_named(run), {})
        curve.setdefault(run["correlation"], []).append(_auroc(run, "reversed"))
    names = list(dict.fromkeys([*(run["method"] for run in runs), REFERENCE]))
    several = [name for curves in values.values() for name in names if len(curves.get(name, {})) > 1]
    shown = list(dict.fromkeys(several or names))
    colours = plt.get_cmap("tab10" if len(shown) <= 10 else "tab20").colors
    styles = {name: {"color": colours[i % len(colours)]} for i, name in enumerate(shown)}
    styles[REFERENCE] = {"color": "0.3", "ls": "--"}
    size = (3.2 * len(values), 4.0)
    figure, axes = plt.subplots(1, len(values), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, ((images, confounder), curves) in zip(axes[0], values.items(), strict=True):
        for name in shown:
            curve = {correlation: fmean(found) for correlation, found in curves.get(name, {}).items()}
            axis.plot(list(curve), list(curve.values()), marker="o", ms=3, label=name, **styles[name])
        axis.set(title=f"{images}: {confounder}", xlabel="correlation in training")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AUROC, reversed test")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
