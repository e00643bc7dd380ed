"""Tables of the NIH ChestX-ray14 release: labels, patients, official lists and boxes, without the images."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from causalcxr.data._nih_files import (
    BOX_FILE,
    Box,
    convert,
    find_label_file,
    first_names,
    parse_age,
    parse_findings,
    read_boxes,
    read_columns,
    read_official_split,
)
from causalcxr.data.labels import NIH_LABELS, label_positions

__all__ = ["SPLITS", "Box", "NIHTables", "read_nih_tables"]

SPLITS = ("train", "val", "train_val", "test", "all")


@dataclass(frozen=True, eq=False)
class NIHTables:
    """One row per image, in the order of the label file.

    Attributes:
        names: File names.
        label_names: Names of the columns of ``targets``.
        targets: (N, K) float32, 1 where the finding is listed. ``No Finding`` is a row of zeros.
        patient: (N,) patient numbers.
        view: (N,) "AP" or "PA".
        sex: (N,) "M" or "F".
        age: (N,) years, as the file states them (a few in the 2017 file are impossible).
        follow_up: (N,) follow-up numbers.
        original_size: (N, 2) width and height in pixels before the release's reduction to 1024 x 1024.
        spacing: (N, 2) pixel spacing x and y in millimetres before that reduction.
        official_split: (N,) "train_val", "test" or "" (in neither list).
        boxes: Boxes of the images that have some, for the labels in ``label_names``; empty without a box file.
        label_file: Name of the label file, which tells its version.
    """

    names: list[str]
    label_names: tuple[str, ...]
    targets: npt.NDArray[np.float32]
    patient: npt.NDArray[np.int64]
    view: npt.NDArray[np.str_]
    sex: npt.NDArray[np.str_]
    age: npt.NDArray[np.float64]
    follow_up: npt.NDArray[np.int64]
    original_size: npt.NDArray[np.int64]
    spacing: npt.NDArray[np.float64]
    official_split: npt.NDArray[np.str_]
    boxes: dict[str, list[Box]]
    label_file: str

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int] | npt.NDArray[Any]) -> NIHTables:
        """Keep some rows.

        Args:
            rows: Row numbers, or a mask of N booleans.

        Returns:
            The tables of these rows, in their order.
        """
        index = np.arange(len(self))[rows]
        names = [self.names[i] for i in index]
        arrays = {
            key: getattr(self, key)[index]
            for key in ("targets", "patient", "view", "sex", "age", "follow_up", "original_size", "spacing")
        }
        boxes = {name: self.boxes[name] for name in names if name in self.boxes}
        return NIHTables(
            names=names,
            label_names=self.label_names,
            official_split=self.official_split[index],
            boxes=boxes,
            label_file=self.label_file,
            **arrays,
        )

    def split(self, split: str, *, val_fraction: float = 0.1, seed: int = 0) -> NIHTables:
        """Take the rows of one split.

        ``val`` is carved out of the official train_val list by patient: patients are put in the order of a hash of seed
        and patient number, and the first ``val_fraction`` of them are validation. The choice depends on nothing else,
        so it is the same on every platform, and a larger fraction contains a smaller one.

        Args:
            split: "train", "val", "train_val", "test" or "all". ``train`` and ``val`` are together ``train_val``;
                ``all`` is every row, listed or not.
            val_fraction: Fraction of the train_val patients in ``val``; at least one patient unless 0.
            seed: Number of the division.

        Returns:
            The rows, in the order of the label file.

        Raises:
            ValueError: The split is unknown or has no rows, or ``val_fraction`` is not in [0, 1).
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction!r}")
        if split == "all":
            return self
        rows = self.official_split == ("test" if split == "test" else "train_val")
        if split in ("train", "val"):
            in_val = np.isin(self.patient, _val_patients(self.patient[rows], val_fraction, operator.index(seed)))
            rows = rows & (in_val if split == "val" else ~in_val)
        if not rows.any():
            raise ValueError(
                f"split {split!r} has no images (val_fraction={val_fraction}, "
                f"{np.count_nonzero(self.official_split == 'train_val')} images in the train_val list, "
                f"{np.count_nonzero(self.official_split == 'test')} in the test list)"
            )
        return self.select(rows)


def read_nih_tables(
    root: str | os.PathLike[str], *, labels: Sequence[str] = NIH_LABELS, label_version: str | None = None
) -> NIHTables:
    """Read the label file, the two official lists and the boxes of the NIH release; images are not needed.

    Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017.

    Args:
        root: Folder of the release.
        labels: Columns of the targets: names from `NIH_LABELS`, fewer or in another order where wanted.
        label_version: "v2020" (``Data_Entry_2017_v2020.csv``), "2017" (``Data_Entry_2017.csv``), or ``None`` for the
            newer of the two that is there.

    Returns:
        Tables of all images.

    Raises:
        FileNotFoundError: The folder, a label file or a list is missing.
        ValueError: An unknown label or label version, a damaged label file, or lists that do not fit the label file.

    Example:
        >>> tables = read_nih_tables("path/to/nih")  # doctest: +SKIP
        >>> tables.split("test").targets.sum(0)  # doctest: +SKIP
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}; give the folder with the files of the NIH release")
    chosen = tuple(NIH_LABELS[i] for i in label_positions(labels))
    path = find_label_file(root, label_version)
    columns = read_columns(path)
    names = columns["name"]
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        twice = [name for row, name in enumerate(names) if row_of[name] != row]
        raise ValueError(f"{path}: {len(twice)} image names occur more than once: {first_names(twice)}")

    def numbers(column: str, kind: Callable[[str], Any]) -> npt.NDArray[Any]:
        return convert(path, column, columns[column], kind)

    return NIHTables(
        names=names,
        label_names=chosen,
        targets=parse_findings(path, columns["findings"], chosen),
        patient=numbers("patient", int),
        view=np.array(columns["view"]),
        sex=np.array(columns["sex"]),
        age=numbers("age", parse_age),
        follow_up=numbers("follow_up", int),
        original_size=np.stack([numbers("width", int), numbers("height", int)], axis=1),
        spacing=np.stack([numbers("spacing_x", float), numbers("spacing_y", float)], axis=1),
        official_split=read_official_split(root, row_of, path.name),
        boxes=read_boxes(root / BOX_FILE, row_of, chosen),
        label_file=path.name,
    )


def _val_patients(patients: npt.NDArray[np.int64], val_fraction: float, seed: int) -> list[int]:
    unique = sorted({int(p) for p in patients}, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    if val_fraction == 0 or len(unique) < 2:
        return []
    return unique[: min(max(1, round(val_fraction * len(unique))), len(unique) - 1)]
