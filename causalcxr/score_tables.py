"""AUROC of a table of scores against a table of labels, for `causalcxr evaluate`."""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from causalcxr.data.films import TARGETS, read_rows
from causalcxr.data.labels import NIH_LABELS, label_positions
from causalcxr.data.nih_tables import few
from causalcxr.metrics import bootstrap_auroc

__all__ = ["LabelAuroc", "as_text", "aurocs"]

IMAGE_COLUMNS = ("path", "image", "Image Index")
NIH_FINDINGS = "Finding Labels"
INCOMPLETE = "* may be too narrow: some resamples lack positive or negative images"

Table = dict[str, dict[str, str]]
"""Rows of a CSV file by image."""


class LabelAuroc(NamedTuple):
    """AUROC of a label, or the mean over labels, in a group of images; None if undefined."""

    group: str
    label: str
    images: int
    positives: int | None
    patients: int | None  # with a positive image; None if patients are unknown
    auroc: float | None
    low: float | None
    high: float | None
    incomplete: int  # number of resamples that lack a class


def aurocs(scores: Path, labels: Path, groups: list[str], patients: str | None) -> list[LabelAuroc]:
    """Compare two CSV files. For all images and for each group, return one row per label, then their mean.

    Args:
        scores: CSV file written by `causalcxr predict`. Images are matched by file name or, if names repeat, by as many
            parent folders as needed to tell all images apart.
        labels: CSV file with 0, 1 or an empty cell (unknown) for each label, or the table of the NIH release.
        groups: Columns of `labels`. Results are also computed within each of their values.
        patients: Column of `labels` with the patients, who are resampled for the intervals. None resamples images.
    """
    # Score paths are relative to the working directory and need not be UTF-8. Label paths are relative to their table.
    scored, labelled = _by_name(_read(scores, "", "surrogateescape"), _read(labels, labels.parent, "strict"))
    if unlabelled := [image for image in scored if image not in labelled]:
        raise ValueError(f"{len(unlabelled)} images of {scores} are not in {labels}: {few(unlabelled)}")
    if unscored := [image for image in labelled if image not in scored]:
        counts = f"{len(unscored)} of {len(labelled)}"
        warnings.warn(f"{counts} images of {labels} have no scores and are left out: {few(unscored)}", stacklevel=2)
    rows = {image: labelled[image] for image in scored}
    columns = list(next(iter(rows.values())))
    no_labels = (*IMAGE_COLUMNS, "model", "positives", *groups, patients)
    given = [name for name in next(iter(scored.values())) if name not in no_labels and not name.endswith(" threshold")]
    if NIH_FINDINGS in columns:  # one column that lists the findings
        absent = [name for name in NIH_LABELS if name not in columns]
        for image, row in rows.items():
            findings = [name.strip() for name in row[NIH_FINDINGS].split("|")]
            try:
                label_positions(findings, (*NIH_LABELS, "No Finding"))
            except ValueError as error:
                raise ValueError(f"{labels}: {NIH_FINDINGS} of {image}: {error}") from error
            row |= {name: str(int(name in findings)) for name in absent}
        columns += absent
    names = [name for name in given if name in columns]
    if not names:
        raise ValueError(f"{labels} has none of the labels {few(given)}; its columns: {few(columns)}")
    if missing := [name for name in given if name not in names]:
        others = [name for name in columns if name not in (*names, *IMAGE_COLUMNS, *groups, patients)]
        unused = f"; columns without scores: {few(others)}" if others else ""
        warnings.warn(f"{labels} has no column for {few(missing)}: left out{unused}", stacklevel=2)
    for column in [*groups, *([patients] if patients else [])]:
        if column not in columns:
            raise ValueError(f"the labels have no column {column!r}; their columns: {', '.join(columns)}")
        for row in rows.values():
            row[column] = row[column].strip()
    drawn = np.array([row[patients] for row in rows.values()]) if patients else np.arange(len(rows))
    if unnamed := [image for image, row in rows.items() if patients and not row[patients]]:
        raise ValueError(f"{labels}: {len(unnamed)} images have no {patients!r}: {few(unnamed)}")
    members = {"all images": np.ones(len(rows), dtype=bool)}
    for column in groups:
        values = np.array([row[column] for row in rows.values()])
        members |= {f"{column} = {value or '(empty)'}": values == value for value in np.unique(values)}
    values, targets = _numbers(scores, scored, names, _score), _numbers(labels, rows, names, _target)
    found = [
        row if patients else row._replace(patients=None)
        for group, chosen in members.items()
        for row in _of_group(group, names, values[chosen], targets[chosen], drawn[chosen])
    ]
    if not found:
        raise ValueError(f"intervals need at least two {'patients' if patients else 'images'}, but {scores} has one")
    return found


def _read(table: Path, folder: str | Path, errors: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows by image path, split into parts."""
    columns, lines = read_rows(table, errors)
    image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image_column is None:
        names = ", ".join(IMAGE_COLUMNS)
        raise ValueError(
            f"{table} has no column of image names ({names}) or is not comma-separated; its columns: {few(columns)}"
        )
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise ValueError(f"{table} has several columns {twice[0]!r}")
    rows = {}
    for line, row in lines:
        image = Path(os.path.abspath(os.path.join(folder, row[image_column].replace("\\", "/")))).parts
        if image in rows:
            raise ValueError(f"{line}: another row for {row[image_column]!r}")
        rows[image] = row
    if not rows:
        raise ValueError(f"{table} has no rows")
    return rows


def _by_name(*tables: dict[tuple[str, ...], dict[str, str]]) -> list[Table]:
    """Return the rows by file name, or by the shortest path suffix that is unique in each table."""
    parts = 1
    while True:
        named = [{"/".join(image[-parts:]): row for image, row in table.items()} for table in tables]
        if [*map(len, named)] == [*map(len, tables)]:
            return named
        parts += 1


def _numbers(path: Path, table: Table, names: list[str], read: Callable[[str], float]) -> np.ndarray:
    """Return the columns `names` as numbers (N, K)."""

    def number(image: str, name: str, cell: str) -> float:
        try:
            return read(cell.strip())
        except ValueError as error:
            raise ValueError(f"{path}: {name} of {image}: {error}") from error

    return np.array([[number(image, name, row[name]) for name in names] for image, row in table.items()])


def _score(cell: str) -> float:
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"scores must be finite, got {cell}")
    return value


def _target(cell: str) -> float:
    try:
        value = TARGETS[cell.lower()] if cell.lower() in TARGETS else float(cell)  # e.g. 1.00
    except ValueError:
        value = math.nan
    if cell and value not in (0, 1):
        raise ValueError(f"labels must be 0, 1 or empty (unknown), got {cell}")
    return value


def _of_group(
    group: str, names: list[str], scores: np.ndarray, targets: np.ndarray, patients: np.ndarray
) -> Iterator[LabelAuroc]:
    if len(np.unique(patients)) < 2:
        warnings.warn(f"{group} has only one patient or image, so no interval: left out", stacklevel=2)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "AUROC is undefined")  # visible in the result
        result = bootstrap_auroc(scores, targets, patients)
    images = (~np.isnan(targets)).sum(axis=0)
    columns = zip(images, result.positives, result.positive_groups, *result.per_label, result.undefined, strict=True)
    rows: list[Any] = list(zip(names, columns, strict=True))
    rows.append((f"mean of {result.num_labels}", (len(targets), np.nan, np.nan, *result.mean, result.incomplete)))
    for name, figures in rows:
        cells: Any = [None if np.isnan(value) else np.asarray(value).item() for value in figures]
        yield LabelAuroc(group, name, *cells)


def as_text(results: list[LabelAuroc]) -> str:
    """Format the results as a readable table, one block per group."""
    width = max(len(row.label) for row in results)
    lines = []
    for group, rows in groupby(results, key=lambda row: row.group):
        lines += ["", group, f"  {'label':<{width}}  images  positives  patients  AUROC  95 % interval"]
        for row in rows:
            positives, patients = ("" if count is None else count for count in (row.positives, row.patients))
            mark = " *" if row.incomplete else ""
            auroc = "    -" if row.auroc is None else f"{row.auroc:.3f}  {row.low:.3f} to {row.high:.3f}{mark}"
            lines.append(f"  {row.label:<{width}}  {row.images:>6}  {positives:>9}  {patients:>8}  {auroc}")
    if any(row.incomplete and row.auroc is not None for row in results):
        lines += ["", INCOMPLETE]
    return "\n".join(lines[1:])
