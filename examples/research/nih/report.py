"""Tables of a search or of a study, as JSON and Markdown.

    python -m nih.report runs/study --data nih-10k.zip --output docs/results/nih
    python -m nih.report runs/search --data nih-10k.zip --output docs/results/nih

Several folders of one study, such as of different seeds, are read together. All intervals are of 95 % and over
patients, who are drawn with replacement. Every run and every part sees the same draws, so that differences are paired.
A figure of a variant is the mean of the figures of its seeds, not that of an ensemble. One variant is called better
than another if the interval of the difference excludes 0 and the difference has the same sign for every seed, of which
there are three at least.
"""

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import NIHTables
from causalcxr.metrics import bootstrap_auroc

from .films import fingerprint, parts, read_tables
from .pointing import inside, marked_findings

MIN_PATIENTS = 10  # with the finding, for a label to be judged
MIN_SEEDS = 3  # for a variant to be called better
BINS = 15  # of the calibration error
VIEWS = ("AP", "PA")
PAIRS = [(name, "plain") for name in ("label_queries", "causal", "plain_view", "plain_agreement", "as_printed")]
PAIRS += [(name, "label_queries") for name in ("causal", "label_queries_view", "as_printed")]
SHOWN = ("mean_of_14", "mean_of_frequent", "within_AP", "within_PA", "worst_view")
Array = npt.NDArray[np.float64]


@dataclass
class Figure:
    """A statistic of one run: its value, and its value on each resample."""

    value: float
    resamples: Array


def patients_with(targets: Array, patient: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each label how many patients have it."""
    return np.array([len(np.unique(patient[column == 1])) for column in targets.T])


def row_means(values: Array) -> Array:
    """Return the mean over labels (N, K) -> (N,), of those that are defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.nanmean(values, axis=-1)


def ranking_figures(scores: Array, tables: NIHTables, n_resamples: int) -> dict[str, Figure]:
    """Return the means of AUROC of one run, over all films and within each view."""
    targets, patient = tables.targets.astype(float), tables.patient
    frequent = patients_with(targets, patient) >= MIN_PATIENTS
    within = {view: np.where((tables.view == view)[:, None], targets, np.nan) for view in VIEWS}
    # The labels that both views have, lest their means be of different ones.
    both = np.min([patients_with(of_view, patient) for of_view in within.values()], axis=0) >= MIN_PATIENTS

    def figure(labelled: Array, labels: npt.NDArray[np.bool_]) -> Figure:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resample may lack a rare label; it is left out of its mean
            result = bootstrap_auroc(scores[:, labels], labelled[:, labels], patient, n_resamples=n_resamples, seed=0)
        return Figure(float(result.mean.value), row_means(result.resamples))

    figures = {"mean_of_14": figure(targets, np.ones(targets.shape[1], bool))}
    if frequent.any():
        figures["mean_of_frequent"] = figure(targets, frequent)
    if both.any():
        figures |= {f"within_{view}": figure(of_view, both) for view, of_view in within.items()}
        of_views = [figures[f"within_{view}"] for view in VIEWS]
        lowest = np.min([f.resamples for f in of_views], axis=0)
        figures["worst_view"] = Figure(min(f.value for f in of_views), lowest)
    return figures


def drawn(patient: npt.NDArray[Any], n_resamples: int) -> Array:
    """Return how often each film is drawn in each resample of the patients, (n_resamples, N)."""
    members = np.unique(patient, return_inverse=True)[1]
    count, rng = members.max() + 1, np.random.default_rng(0)
    times = [np.bincount(rng.integers(count, size=count), minlength=count)[members] for _ in range(n_resamples)]
    return np.array(times, dtype=float)


def calibration_figure(probabilities: Array, targets: Array, times: Array) -> Figure:
    """Return the expected calibration error, the mean over labels, in bins of equal width."""

    def error(weights: Array) -> Array:
        total = weights.sum(axis=1)
        by_label = []
        for k in range(targets.shape[1]):
            bins = np.clip(np.ceil(probabilities[:, k] * BINS).astype(int) - 1, 0, BINS - 1)
            gap = np.zeros((len(targets), BINS))
            gap[np.arange(len(targets)), bins] = targets[:, k] - probabilities[:, k]
            by_label.append(np.abs(weights @ gap).sum(axis=1) / total)
        return np.mean(by_label, axis=0)

    return Figure(float(error(np.ones((1, len(targets))))[0]), error(times))


def share_figure(hits: npt.NDArray[np.bool_], patient: npt.NDArray[Any], n_resamples: int) -> Figure:
    """Return the share of hits, with patients drawn."""
    times = drawn(patient, n_resamples)
    return Figure(float(hits.mean()), (times @ hits) / times.sum(axis=1))


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def run_figures(
    record: dict[str, Any],
    val: Array,
    test: Array,
    val_targets: Array,
    tables: NIHTables,
    n_resamples: int,
    times: Array,
) -> dict[str, Figure]:
    """Return all figures of one run; `times` are the draws of the test films' patients."""
    figures = ranking_figures(test, tables, n_resamples)
    targets = tables.targets.astype(float)
    figures["calibration_error"] = calibration_figure(sigmoid(test), targets, times)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare label may have no threshold; only the temperature is of interest
        temperature = causalcxr.Calibration.fit(val, val_targets).temperature
    figures["calibration_error_fitted"] = calibration_figure(sigmoid(test / temperature), targets, times)
    marked = marked_findings(tables.names, tables.boxes)
    places = record.get("pointing") or {}
    for name in ("evidence", "attention"):
        if name in places:
            hits = np.array([inside(place, boxes) for place, boxes in zip(places[name], marked.boxes, strict=True)])
            figures[f"pointing_{name}"] = share_figure(hits, tables.patient[marked.rows], n_resamples)
    return figures


def summary(of_seeds: list[Figure]) -> dict[str, Any]:
    """Return the mean over seeds, its interval over patients, and the figure of each seed."""
    values = [figure.value for figure in of_seeds]
    resamples = np.mean([figure.resamples for figure in of_seeds], axis=0)
    low, high = np.nanpercentile(resamples, [2.5, 97.5])
    return {
        "mean": _rounded(np.mean(values)),
        "interval": [_rounded(low), _rounded(high)],
        "seeds": [_rounded(value) for value in values],
        "deviation_over_seeds": _rounded(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def difference(of_one: dict[int, Figure], of_other: dict[int, Figure]) -> dict[str, Any] | None:
    """Return the mean difference over the seeds that both have, paired over patients and seeds."""
    seeds = sorted(set(of_one) & set(of_other))
    if not seeds:
        return None
    pairs = [(of_one[seed], of_other[seed]) for seed in seeds]
    found = summary([Figure(a.value - b.value, a.resamples - b.resamples) for a, b in pairs])
    low, high = found["interval"]
    better = low > 0 and min(found["seeds"]) > 0 and len(seeds) >= MIN_SEEDS
    worse = high < 0 and max(found["seeds"]) < 0 and len(seeds) >= MIN_SEEDS
    return found | {"verdict": "better" if better else "worse" if worse else "not told apart"}


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def rows(header: list[str], body: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(found: dict[str, Any] | None, signed: bool = False) -> str:
    if found is None:
        return ""
    form = "{:+.3f}" if signed else "{:.3f}"
    return f"{form} ({form}, {form})".format(found["mean"], *found["interval"])


def study(folders: list[Path], tables: NIHTables, n_resamples: int) -> dict[str, Any]:
    """Return everything that the tables of a study say."""
    of_part = {part: tables.select(part_rows) for part, part_rows in parts(tables).items()}
    test, val = of_part["test"], of_part["val"]
    by_variant: dict[str, dict[int, dict[str, Figure]]] = {}
    records: dict[str, dict[int, dict[str, Any]]] = {}
    about = []
    for folder in folders:
        content = json.loads((folder / "results.json").read_text())
        about.append({key: value for key, value in content.items() if key != "runs"})
        with np.load(folder / "scores.npz") as scores:
            # A trial on a few films has the first of each part.
            counts = (int(str(scores[f"{part}_films"]).split()[0]) for part in ("val", "test"))
            of_val, of_test = (t.select(range(count)) for t, count in zip((val, test), counts, strict=True))
            for part, own in (("val", of_val), ("test", of_test)):
                if str(scores[f"{part}_films"]) != fingerprint(own.names):
                    raise ValueError(
                        f"{folder} has scores of other {part} films than --data; give the films of the run"
                    )
            times = drawn(of_test.patient, n_resamples)
            for record in (run for run in content["runs"] if run["finished"]):
                logits = [scores[f"{record['name']}/{part}"].astype(float) for part in ("val", "test")]
                figures = run_figures(record, *logits, of_val.targets, of_test, n_resamples, times)
                by_variant.setdefault(record["variant"], {})[record["seed"]] = figures
                records.setdefault(record["variant"], {})[record["seed"]] = record
    variants = {}
    for variant, of_seeds in by_variant.items():
        names = next(iter(of_seeds.values()))
        variants[variant] = {
            "seeds": sorted(of_seeds),
            "val_auroc": [records[variant][seed]["val_auroc"] for seed in sorted(of_seeds)],
            "best_epoch": [records[variant][seed]["best_epoch"] for seed in sorted(of_seeds)],
            "figures": {name: summary([of_seeds[seed][name] for seed in sorted(of_seeds)]) for name in names},
            "branches": branch_means(list(records[variant].values())),
        }
    differences = {}
    for one, other in PAIRS:
        if one in by_variant and other in by_variant:
            pair = {}
            for name in next(iter(by_variant[one].values())):
                sides = [{seed: f[name] for seed, f in by_variant[v].items() if name in f} for v in (one, other)]
                if (found := difference(*sides)) is not None:
                    pair[name] = found
            differences[f"{one} - {other}"] = pair
    marked = marked_findings(of_test.names, of_test.boxes)
    centre = np.array([inside([0.5, 0.5], boxes) for boxes in marked.boxes])
    return {
        "mode": "study",
        "about": about,
        "setting": next(iter(next(iter(records.values())).values()))["setting"] if records else None,
        "resamples": n_resamples,
        "test": {
            "images": len(of_test),
            "patients": len(np.unique(of_test.patient)),
            "positives": dict(zip(NIH_LABELS, of_test.targets.sum(axis=0).astype(int).tolist(), strict=True)),
            "positive_patients": dict(
                zip(NIH_LABELS, patients_with(of_test.targets, of_test.patient).tolist(), strict=True)
            ),
            "marked_findings": len(marked.rows),
            "middle_of_the_image": _rounded(centre.mean()) if len(centre) else None,
        },
        "variants": variants,
        "differences": differences,
    }


def branch_means(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the norms of features and gradients at the start and the end of training, means over seeds."""
    found = {}
    for when in ("start", "end"):
        of_seeds = [b for record in records if (b := record.get(f"branches_{when}")) and "problem" not in b]
        if of_seeds:
            found[when] = {name: float(f"{np.mean([b[name] for b in of_seeds]):.4g}") for name in of_seeds[0]}
    return found


def study_tables(found: dict[str, Any]) -> str:
    """Return the tables of a study as Markdown."""
    test = found["test"]
    frequent = sum(count >= MIN_PATIENTS for count in test["positive_patients"].values())
    titles = {
        "mean_of_14": "test AUROC, mean of 14",
        "mean_of_frequent": f"mean of {frequent} findings",
        "within_AP": "within AP",
        "within_PA": "within PA",
        "worst_view": "worst view",
        "calibration_error": "calibration error",
        "calibration_error_fitted": "after temperature",
        "pointing_evidence": "evidence in box",
        "pointing_attention": "attention in box",
    }
    body = [
        [
            variant,
            ", ".join(map(str, of_variant["seeds"])),
            ", ".join(f"{value:.3f}" for value in of_variant["val_auroc"]),
            *(with_interval(of_variant["figures"].get(name)) for name in titles),
        ]
        for variant, of_variant in found["variants"].items()
    ]
    blocks = [rows(["variant", "seeds", "validation AUROC of each", *titles.values()], body)]
    blocks.append(
        f"{test['images']} films of {test['patients']} patients; 95 % intervals over patients of the mean over seeds. "
        f"{test['marked_findings']} marked findings; the middle of the image lies in the box of "
        f"{test['middle_of_the_image']} of them."
    )
    body = [
        [pair, titles[name], with_interval(of[name], signed=True), _of_seeds(of[name]), of[name]["verdict"]]
        for pair, of in found["differences"].items()
        for name in SHOWN
        if name in of
    ]
    blocks.append(rows(["difference", "of", "mean over seeds", "of each seed", ""], body))
    body = [
        [variant, when, *(f"{values[name]:.3g}" for name in BRANCHES)]
        for variant, of_variant in found["variants"].items()
        for when, values in of_variant["branches"].items()
    ]
    if body:
        blocks.append(rows(["variant", "training", *BRANCHES.values()], body))
    return "\n\n".join(blocks) + "\n"


BRANCHES = {
    "norm_causal": "norm of h_x",
    "norm_confounder": "norm of h_c",
    "gradient_sl_encoder": "gradient of L_sl in the encoder",
    "gradient_conf_encoder": "of a1 L_conf",
    "gradient_bd_encoder": "of a2 L_bd",
}


def _of_seeds(found: dict[str, Any]) -> str:
    return ", ".join(f"{value:+.3f}" for value in found["seeds"])


def search(folders: list[Path]) -> dict[str, Any]:
    """Return every tried setting with its validation AUROC."""
    runs, about = [], []
    for folder in folders:
        content = json.loads((folder / "results.json").read_text())
        about.append({key: value for key, value in content.items() if key != "runs"})
        runs += content["runs"]
    keys = ("setting_name", "variant", "seed", "val_auroc", "best_epoch", "seconds", "setting")
    short = [{k: run[k] for k in keys if k in run} | {"epochs": len(run["curve"])} for run in runs]
    return {"mode": "search", "about": about, "runs": short}


def search_tables(found: dict[str, Any]) -> str:
    """Return the table of a search as Markdown."""
    runs = [run for run in found["runs"] if "val_auroc" in run]
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    body = []
    for name in dict.fromkeys(run["setting_name"] for run in runs):
        cells = [name]
        for variant in variants:
            of = [run for run in runs if run["setting_name"] == name and run["variant"] == variant]
            cells.append(", ".join(_best_epoch(run) for run in of))
        body.append(cells)
    return rows(["setting", *variants], body) + "\n"


def _best_epoch(run: dict[str, Any]) -> str:
    done, planned = run["epochs"], run["setting"]["epochs"]
    stopped = f", stopped after {done} of" if done < planned else " of"
    return f"{run['val_auroc']:.3f} (epoch {run['best_epoch']}{stopped} {planned})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="outputs of study.py, of one mode")
    parser.add_argument("--data", type=Path, required=True, help="the films of the run, packed or a folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the JSON and Markdown files")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    args = parser.parse_args(argv)
    modes = {json.loads((folder / "results.json").read_text())["mode"] for folder in args.folders}
    if len(modes) > 1:
        parser.error("give folders of a search or of a study, not of both")
    mode = modes.pop()
    if mode == "search":
        found = search(args.folders)
        text = search_tables(found)
    else:
        found = study(args.folders, read_tables(args.data), args.resamples)
        text = study_tables(found)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{mode}.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.output / f"{mode}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
