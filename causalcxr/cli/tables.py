"""AUROC of a table of scores against a table of labels, over all images and within groups of them."""

import csv
import itertools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih_tables import few
from causalcxr.metrics import bootstrap_auroc
from causalcxr.metrics._inputs import FloatArray

__all__ = ["Auroc", "Table", "auroc_table", "evaluate", "match", "read_table"]

IMAGE_COLUMNS = ("path", "image", "Image Index")
NIH_FINDINGS = "Finding Labels"
ALL = "all images"
MEAN = "mean"


class Table(NamedTuple):
    """A CSV file with a row for each image."""

    path: Path
    image_column: str
    columns: list[str]
    rows: dict[str, dict[str, str]]
    """The row of each image, by file name."""


class Auroc(NamedTuple):
    """A row of the result; AUROC and interval are None where there is none."""

    group: str
    label: str
    images: int
    """With a known label; for the mean, of the group."""
    positives: int | None
    auroc: float | None
    low: float | None
    high: float | None


class Matched(NamedTuple):
    """Scores and targets (N, K) of the same images, with the labels' rows."""

    labels: list[str]
    scores: FloatArray
    targets: FloatArray
    rows: list[dict[str, str]]


def read_table(path: Path) -> Table:
    """Read a CSV file with a header, of which one column names images."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
        if image_column is None:
            raise ValueError(
                f"{path} has no column of image names ({', '.join(IMAGE_COLUMNS)}); its columns: {few(columns)}"
            )
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if None in row or None in row.values():  # how csv marks surplus and missing cells
                raise ValueError(f"{path}, line {reader.line_num}: not {len(columns)} cells as in the header")
            name = PurePath(row[image_column].replace("\\", "/")).name
            if name in rows:
                raise ValueError(f"{path} has several rows for {name!r} (images are matched by file name)")
            rows[name] = row
    if not rows:
        raise ValueError(f"{path} has no rows")
    return Table(path, image_column, columns, rows)


def match(scores: Table, labels: Table) -> Matched:
    """Scores and targets of the images and labels that both tables have; every image with scores must have labels."""
    unlabelled = [name for name in scores.rows if name not in labels.rows]
    if unlabelled:
        raise ValueError(f"{len(unlabelled)} images of {scores.path} are not in {labels.path}: {few(unlabelled)}")
    unscored = [name for name in labels.rows if name not in scores.rows]
    if unscored:
        warnings.warn(
            f"{len(unscored)} of {len(labels.rows)} images of {labels.path} have no scores and are left out: "
            f"{few(unscored)}",
            stacklevel=2,
        )
    names = [name for name in scores.columns if name != scores.image_column]
    listed = NIH_LABELS if NIH_FINDINGS in labels.columns else ()
    known = [name for name in names if name in labels.columns or name in listed]
    if not known:
        raise ValueError(f"{labels.path} has none of the labels {few(names)}; its columns: {few(labels.columns)}")
    if len(known) < len(names):
        missing = [name for name in names if name not in known]
        warnings.warn(f"{labels.path} has no column for {few(missing)}: left out", stacklevel=2)
    rows = [labels.rows[name] for name in scores.rows]
    values = [[_score(scores, row, name) for name in known] for row in scores.rows.values()]
    targets = [[_target(labels, row, name) for name in known] for row in rows]
    return Matched(known, np.array(values), np.array(targets), rows)


def evaluate(
    matched: Matched, group_columns: list[str], patient_column: str | None, n_resamples: int = 2000
) -> Iterator[Auroc]:
    """Yield the AUROC of each label and their mean, over all images and within each value of the group columns."""
    labels, scores, targets, rows = matched
    for column in [*group_columns, *([patient_column] if patient_column else [])]:
        if column not in rows[0]:
            raise ValueError(f"the labels have no column {column!r}; their columns: {', '.join(rows[0])}")
    patients = np.array([row[patient_column] for row in rows]) if patient_column else np.arange(len(rows))
    if patient_column and "" in patients:
        raise ValueError(f"{np.sum(patients == '')} images have no {patient_column!r}")
    members = {ALL: np.ones(len(rows), dtype=bool)}
    for column in group_columns:
        values = np.array([row[column] for row in rows])
        members |= {f"{column} = {value or '(empty)'}": values == value for value in np.unique(values)}
    for group, chosen in members.items():
        yield from _evaluate_group(group, labels, scores[chosen], targets[chosen], patients[chosen], n_resamples)


def auroc_table(results: list[Auroc]) -> str:
    """Return the results as text for people, a block for each group."""
    width = max(len(row.label) for row in results)
    lines = []
    for group, rows in itertools.groupby(results, key=lambda row: row.group):
        lines += ["", group, f"  {'label':<{width}}  images  positives  AUROC  95 % interval"]
        for row in rows:
            positives = "" if row.positives is None else row.positives
            auroc = "    -" if row.auroc is None else f"{row.auroc:.3f}  {row.low:.3f} to {row.high:.3f}"
            lines.append(f"  {row.label:<{width}}  {row.images:>6}  {positives:>9}  {auroc}")
    return "\n".join(lines[1:])


def _evaluate_group(
    group: str, labels: list[str], scores: FloatArray, targets: FloatArray, patients: np.ndarray, n_resamples: int
) -> Iterator[Auroc]:
    known, positives = (~np.isnan(targets)).sum(axis=0), (targets == 1).sum(axis=0)
    columns: list[Iterable[float]] = [np.full(len(labels) + 1, np.nan)] * 3
    if len(np.unique(patients)) > 1:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "AUROC is undefined")  # seen in the result
            result = bootstrap_auroc(scores, targets, patients, n_resamples=n_resamples)
        columns = [[*values, mean] for values, mean in zip(result.per_label, result.mean, strict=True)]
    counts = [*zip(known.tolist(), positives.tolist(), strict=True), (len(targets), None)]
    for label, count, *interval in zip([*labels, MEAN], counts, *columns, strict=True):
        yield Auroc(group, label, *count, *(None if np.isnan(value) else float(value) for value in interval))


def _score(table: Table, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{table.path}: the score of {name!r} for {row[table.image_column]!r} is {row[name]!r}")
    return value


def _target(table: Table, row: dict[str, str], name: str) -> float:
    if name not in table.columns:  # the NIH release: one column that lists what is there
        return float(name in row[NIH_FINDINGS].split("|"))
    targets = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
    if row[name].strip() not in targets:
        raise ValueError(
            f"{table.path}: label {name!r} of {row[table.image_column]!r} is {row[name]!r}, expected 0, 1 or empty "
            "(unknown)"
        )
    return targets[row[name].strip()]
