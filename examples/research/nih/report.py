"""Write the table of a search as Markdown, or those of a study as JSON and Markdown.

    python -m nih.report runs/study --data nih-10k --output nih/results

Several folders of one study, e.g. with different seeds, are read together. All intervals are 95 % intervals over
resampled patients. All runs and views use the same resamples, so that differences are paired. A figure is an array
(1 + R,): its value, then its value on each of R resamples. The figure of a variant is the mean over its seeds, not that
of an ensemble. One variant is better than another if the interval of the difference excludes 0 and the difference has
the same sign for every seed, with at least three seeds. For calibration errors and Brier scores, lower is better.
Calibration errors have no interval: each resample adds the noise in their bins once more, which biases the difference
to a better calibrated model towards 0.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import NIHTables, read_nih_tables
from causalcxr.metrics import bootstrap_auroc
from records import markdown_table, publish

from .films import scored_films
from .pointing import inside, marked_findings

MIN_PATIENTS = 10  # with a finding, for its label to be evaluated
MIN_SEEDS = 3  # required to call a variant better
BINS = 15  # in the calibration error
VIEWS = ("AP", "PA")
PAIRS = [(name, "plain") for name in ("label_queries", "causal", "plain_view", "plain_agreement", "as_printed")]
PAIRS += [(name, "plain_small") for name in ("causal", "label_queries", "plain_agreement_small")]
PAIRS += [(name, "label_queries") for name in ("causal", "label_queries_view", "as_printed")]
TITLES = {
    "mean_of_14": "test AUROC, mean of 14",
    "mean_of_frequent": "mean of {frequent} findings",
    "mean_of_both_views": "mean of {both} findings",
    "within_AP": "{both} findings within AP",
    "within_PA": "{both} findings within PA",
    "worst_view": "{both} findings, worse view",
    "calibration_error": "calibration error",
    "calibration_error_fitted": "calibration error after temperature",
    "brier_score": "Brier score",
    "pointing_evidence": "evidence in box",
    "pointing_attention": "attention in box",
}
CALIBRATION_ERRORS = ("calibration_error", "calibration_error_fitted")
LOWER_IS_BETTER = (*CALIBRATION_ERRORS, "brier_score")
BRANCHES = {
    "norm_confounder": "norm of h_c",
    "gradient_sl_encoder": "gradient of L_sl in the encoder",
    "gradient_conf_encoder": "of a1 L_conf",
}
Array = npt.NDArray[np.float64]
Figures = dict[str, Array]


def patients_with(targets: Array, patient: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the number of patients with each label."""
    return np.array([len(np.unique(patient[column == 1])) for column in targets.T])


def judged_in_both_views(tables: NIHTables) -> npt.NDArray[np.bool_]:
    """Return a mask of labels with enough patients in each view, so that both views average the same labels."""
    of_views = [tables.view == view for view in VIEWS]
    counts = [patients_with(tables.targets[rows], tables.patient[rows]) for rows in of_views]
    enough: npt.NDArray[np.bool_] = np.min(counts, axis=0) >= MIN_PATIENTS
    return enough


def ranking_figures(scores: Array, tables: NIHTables, n_resamples: int) -> Figures:
    """Return the mean AUROCs of one run, over all films and within each view."""
    targets, patient = tables.targets.astype(float), tables.patient
    frequent = patients_with(targets, patient) >= MIN_PATIENTS
    within = {view: np.where((tables.view == view)[:, None], targets, np.nan) for view in VIEWS}
    both = judged_in_both_views(tables)

    def figure(labelled: Array, labels: npt.NDArray[np.bool_]) -> Array:
        result = bootstrap_auroc(scores[:, labels], labelled[:, labels], patient, n_resamples=n_resamples, seed=0)
        return np.append(result.mean.value, np.nanmean(result.resamples, axis=-1))

    figures = {"mean_of_14": figure(targets, np.ones(targets.shape[1], bool))}
    if frequent.any():
        figures["mean_of_frequent"] = figure(targets, frequent)
    if both.any():
        figures["mean_of_both_views"] = figure(targets, both)
        figures |= {f"within_{view}": figure(of_view, both) for view, of_view in within.items()}
        figures["worst_view"] = np.min([figures[f"within_{view}"] for view in VIEWS], axis=0)
    return figures


def drawn(patient: npt.NDArray[Any], n_resamples: int) -> Array:
    """Return how often each film counts, (1 + n_resamples, N): once, then in each resample of the patients."""
    members = np.unique(patient, return_inverse=True)[1]
    count, rng = members.max() + 1, np.random.default_rng(0)
    times = [np.bincount(rng.integers(count, size=count), minlength=count)[members] for _ in range(n_resamples)]
    return np.array([np.ones(len(patient)), *times])


def calibration_figure(logits: Array, targets: Array, times: Array) -> Array:
    """Return the expected calibration error with bins of equal width, averaged over labels."""
    by_label = []
    for of_label, target in zip(1 / (1 + np.exp(-logits.T)), targets.T, strict=True):
        bins = np.clip(np.ceil(of_label * BINS).astype(int) - 1, 0, BINS - 1)
        gap = np.zeros((len(target), BINS))
        gap[np.arange(len(target)), bins] = target - of_label
        by_label.append(np.abs(times @ gap).sum(axis=1) / times.sum(axis=1))
    return np.mean(by_label, axis=0)


def brier_figure(logits: Array, targets: Array, times: Array) -> Array:
    """Return the Brier score, averaged over labels."""
    squares = (1 / (1 + np.exp(-logits)) - targets) ** 2
    return times @ squares.mean(axis=1) / times.sum(axis=1)


def pointing_figure(places: list[list[float]], test: NIHTables, n_resamples: int) -> Array:
    """Return the fraction of marked findings whose location lies in a box."""
    marked = marked_findings(test)
    hits = np.array([inside(*place, finding) for place, finding in zip(places, marked, strict=True)])
    times = drawn(test.patient[[finding.row for finding in marked]], n_resamples)
    return times @ hits / times.sum(axis=1)


def run_figures(record: dict[str, Any], scores: Any, val: NIHTables, test: NIHTables, n_resamples: int) -> Figures:
    """Return all figures of one run from its record and logits."""
    logits, fitted_on = (scores[f"{record['name']}/{part}"].astype(float) for part in ("test", "val"))
    figures = ranking_figures(logits, test, n_resamples)
    targets, times = test.targets.astype(float), drawn(test.patient, n_resamples)
    temperature = causalcxr.Calibration.fit(fitted_on, val.targets).temperature
    figures["calibration_error"] = calibration_figure(logits, targets, times)
    figures["calibration_error_fitted"] = calibration_figure(logits / temperature, targets, times)
    figures["brier_score"] = brier_figure(logits, targets, times)
    for name, places in record.get("pointing", {}).items():
        figures[f"pointing_{name}"] = pointing_figure(places, test, n_resamples)
    return figures


def summary(of_seeds: list[Array]) -> dict[str, Any]:
    """Return the mean over seeds, its interval over patients, and the value of each seed."""
    values = [float(figure[0]) for figure in of_seeds]
    interval = np.nanpercentile(np.mean(of_seeds, axis=0)[1:], [2.5, 97.5])
    return {
        "mean": round(float(np.mean(values)), 4),
        "interval": [round(float(end), 4) for end in interval],
        "seeds": [round(value, 4) for value in values],
        "deviation_over_seeds": round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None,
    }


def difference(
    of_one: dict[int, Array], of_other: dict[int, Array], *, lower_is_better: bool = False
) -> dict[str, Any]:
    """Return the mean difference over the seeds of both, paired over patients and seeds."""
    seeds = sorted(set(of_one) & set(of_other))
    found = summary([of_one[seed] - of_other[seed] for seed in seeds])
    low, high = found["interval"]
    higher, lower = low > 0 and min(found["seeds"]) > 0, high < 0 and max(found["seeds"]) < 0
    verdict = "not told apart"
    if len(seeds) >= MIN_SEEDS and (higher or lower):
        verdict = "better" if lower == lower_is_better else "worse"
    return found | {"verdict": verdict}


def read(folders: list[Path]) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Return the metadata and the runs of each output."""
    contents = [json.loads((folder / "results.json").read_text()) for folder in folders]
    return contents, [content.pop("runs") for content in contents]


def check_one_recipe(folders: list[Path], about: list[dict[str, Any]], runs: list[list[dict[str, Any]]]) -> None:
    """Refuse runs of different recipes, or two runs of a variant and seed."""
    recipes = {
        f"{folder / run['name']}": run["setting"] | {"start": content.get("start"), "sources": content["sources"]}
        for folder, content, of_folder in zip(folders, about, runs, strict=True)
        for run in of_folder
        if run["finished"]
    }
    first = next(iter(recipes.values()), {})
    for name, recipe in recipes.items():
        if other := [f"{key} {recipe.get(key)}" for key in first | recipe if recipe.get(key) != first.get(key)]:
            raise SystemExit(f"{name} has {', '.join(other)}, unlike {next(iter(recipes))}: report them apart")
    pairs = [(run["variant"], run["seed"]) for of_folder in runs for run in of_folder if run["finished"]]
    if twice := {pair for pair in pairs if pairs.count(pair) > 1}:
        raise SystemExit(f"more than one run of {', '.join(f'{variant}, seed {seed}' for variant, seed in twice)}")


def study(folders: list[Path], tables: NIHTables, n_resamples: int) -> dict[str, Any]:
    """Return the content of the tables of a study."""
    about, runs = read(folders)
    check_one_recipe(folders, about, runs)
    records: dict[str, dict[int, dict[str, Any]]] = {}
    figures: dict[str, dict[str, dict[int, Array]]] = {}
    for folder, of_folder in zip(folders, runs, strict=True):
        with np.load(folder / "scores.npz") as scores:
            val, test = (scored_films(part, tables, str(scores[f"{part}_films"])) for part in ("val", "test"))
            for record in (run for run in of_folder if run["finished"]):
                variant, seed = record["variant"], record["seed"]
                spread = scores[f"{record['name']}/test"].astype(float).std(axis=0).mean()
                records.setdefault(variant, {})[seed] = record | {"spread": round(float(spread), 3)}
                for name, figure in run_figures(record, scores, val, test, n_resamples).items():
                    figures.setdefault(variant, {}).setdefault(name, {})[seed] = figure
    variants = {}
    for variant, of_seeds in records.items():
        seeds = sorted(of_seeds)
        variants[variant] = {
            "seeds": seeds,
            "val_auroc": [of_seeds[seed]["val_auroc"] for seed in seeds],
            "best_epoch": [of_seeds[seed]["best_epoch"] for seed in seeds],
            "spread_of_logits": [of_seeds[seed]["spread"] for seed in seeds],
            "figures": {
                name: summary([of[seed] for seed in seeds]) | ({"interval": None} if name in CALIBRATION_ERRORS else {})
                for name, of in figures[variant].items()
            },
            "branches": branch_means(list(of_seeds.values())),
        }
    differences = {
        f"{one} - {other}": {
            name: difference(of_one, figures[other][name], lower_is_better=name in LOWER_IS_BETTER)
            for name, of_one in figures[one].items()
            if name in figures[other]
        }
        for one, other in PAIRS
        if set(records.get(one, {})) & set(records.get(other, {}))
    }
    n_marked = len(marked_findings(test))
    middle = pointing_figure([[0.5, 0.5]] * n_marked, test, n_resamples) if n_marked else None
    if middle is not None:
        differences |= {
            f"{variant} - middle of the image": {
                name: difference(of_seeds, dict.fromkeys(of_seeds, middle))
                for name, of_seeds in of_variant.items()
                if name.startswith("pointing_")
            }
            for variant, of_variant in figures.items()
        }
    return {
        "mode": "study",
        "about": about,
        "setting": next((record["setting"] for of_seeds in records.values() for record in of_seeds.values()), None),
        "resamples": n_resamples,
        "test": {
            "images": len(test),
            "patients": len(np.unique(test.patient)),
            "positives": dict(zip(NIH_LABELS, test.targets.sum(axis=0).astype(int).tolist(), strict=True)),
            "positive_patients": dict(zip(NIH_LABELS, patients_with(test.targets, test.patient).tolist(), strict=True)),
            "judged_in_both_views": np.array(NIH_LABELS)[judged_in_both_views(test)].tolist(),
            "marked_findings": n_marked,
            "middle_of_the_image": None if middle is None else round(float(middle[0]), 4),
        },
        "variants": variants,
        "differences": differences,
    }


def branch_means(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the norms of features and gradients before training, averaged over seeds; none without both branches."""
    found = [record["branches_start"] for record in records if "branches_start" in record]
    return {name: float(f"{np.mean([of_run[name] for of_run in found]):.4g}") for name in BRANCHES if found}


def form(name: str, sign: str = "") -> str:
    """Return the format of a figure. Brier scores differ in the fourth decimal."""
    return f"{{:{sign}.{4 if name == 'brier_score' else 3}f}}"


def with_interval(found: dict[str, Any] | None, form: str) -> str:
    if found is None:
        return ""
    interval = f" ({form}, {form})".format(*found["interval"]) if found["interval"] else ""
    return form.format(found["mean"]) + interval


def study_tables(found: dict[str, Any]) -> str:
    """Return the tables of a study as Markdown."""
    test, variants = found["test"], found["variants"]
    frequent = sum(count >= MIN_PATIENTS for count in test["positive_patients"].values())
    both = len(test["judged_in_both_views"])
    titles = {name: title.format(frequent=frequent, both=both) for name, title in TITLES.items()}
    header = ["variant", "seeds", "validation AUROC of each", "standard deviation of logits", *titles.values()]
    body = []
    for variant, of in variants.items():
        chosen, spread = (", ".join(f"{value:.3f}" for value in of[key]) for key in ("val_auroc", "spread_of_logits"))
        figures = [with_interval(of["figures"].get(name), form(name)) for name in titles]
        body.append([variant, ", ".join(map(str, of["seeds"])), chosen, spread, *figures])
    blocks = [markdown_table(header, body)]
    blocks.append(
        f"{test['images']} films of {test['patients']} patients; 95 % intervals over patients of the mean over seeds. "
        f"{frequent} findings have {MIN_PATIENTS} patients or more, {both} have as many in each view: "
        f"{', '.join(test['judged_in_both_views'])}. "
        f"{test['marked_findings']} marked findings; the middle of the image lies in the box of "
        f"{test['middle_of_the_image']} of them."
    )
    body = []
    for pair, figures in found["differences"].items():
        for name, of in ((name, figures[name]) for name in titles if name in figures):
            signed = form(name, "+")
            seeds = ", ".join(map(signed.format, of["seeds"]))
            body.append([pair, titles[name], with_interval(of, signed), seeds, of["verdict"]])
    blocks.append(markdown_table(["difference", "of", "mean over seeds", "of each seed", ""], body))
    body = [
        [variant, *(f"{value:.3g}" for value in of["branches"].values())]
        for variant, of in variants.items()
        if of["branches"]
    ]
    blocks.append(markdown_table(["before training", *BRANCHES.values()], body))
    return "\n\n".join(blocks) + "\n"


def search_table(runs: list[dict[str, Any]]) -> str:
    """Return every setting with its validation AUROC as a Markdown table."""
    cells: dict[str, dict[str, list[str]]] = {}
    for run in (run for run in runs if "val_auroc" in run):
        trained, planned = len(run["curve"]), run["setting"]["epochs"]
        stopped = f", stopped after {trained} of" if trained < planned else " of"
        cell = f"{run['val_auroc']:.3f} (epoch {run['best_epoch']}{stopped} {planned})"
        cells.setdefault(run["setting_name"], {}).setdefault(run["variant"], []).append(cell)
    variants = list(dict.fromkeys(variant for of_setting in cells.values() for variant in of_setting))
    body = [[name, *("; ".join(of.get(variant, [])) for variant in variants)] for name, of in cells.items()]
    return markdown_table(["setting", *variants], body) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of study.py, all of one mode")
    parser.add_argument("--data", type=Path, required=True, help="folder of the films of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON and Markdown files")
    parser.add_argument("--resamples", type=int, default=2000, help="default: 2000")
    args = parser.parse_args(argv)
    about, runs = read(args.folders)
    if len({of["mode"] for of in about}) > 1:
        parser.error("pass folders of a search or of a study, not of both")
    warnings.filterwarnings("ignore", "AUROC is|Mean of empty|no threshold")  # for labels missing in a resample
    if about[0]["mode"] == "search":
        table = search_table([run for of_folder in runs for run in of_folder])
        print(table)
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "search.md").write_text(table)
    else:
        found = study(args.folders, read_nih_tables(args.data), args.resamples)
        publish(args.output / "study.json", found, study_tables(found))


if __name__ == "__main__":
    main()
