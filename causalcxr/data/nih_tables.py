"""Read the tables of the NIH ChestX-ray14 release: labels, patients, official lists and boxes, without images."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from causalcxr._checks import check_choice
from causalcxr.data.labels import NIH_LABELS, label_positions

__all__ = ["Box", "NIHTables", "few", "read_nih_tables", "val_patients"]

_SPLITS = ("train", "val", "train_val", "test", "all")
_LABEL_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_LIST_FILES = {
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
_BOX_FILE = "BBox_List_2017.csv"
_BOX_NAMES = {"Infiltrate": "Infiltration"}

_NAME, _FINDINGS, _VIEW = "Image Index", "Finding Labels", "View Position"
_PATIENT, _AGE, _SEX = "Patient ID", "Patient Age", "Patient Gender"
_COLUMNS = (_NAME, _FINDINGS, _PATIENT, _AGE, _SEX, _VIEW)
_OTHER_COLUMN_NAMES = {"Patient Sex": _SEX}  # in some copies of the release
_YEARS_PER_UNIT = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


class Box(NamedTuple):
    """A finding marked by a radiologist: top left corner and size, in pixels of the 1024 x 1024 release."""

    label: str
    x: float
    y: float
    w: float
    h: float


@dataclasses.dataclass(frozen=True, eq=False)
class NIHTables:
    """Tables of the release, one row per image, in the order of the label file."""

    names: list[str]  # file names
    label_names: tuple[str, ...]  # of the columns of `targets`
    targets: npt.NDArray[np.float32]  # (N, K), 1 where the finding is listed; "No Finding" is a row of zeros
    patient: npt.NDArray[np.int64]  # (N,) patient numbers
    view: npt.NDArray[np.str_]  # (N,) "AP" or "PA"
    sex: npt.NDArray[np.str_]  # (N,) "M" or "F"
    age: npt.NDArray[np.float64]  # (N,) years, as in the file (a few in the 2017 file are impossible)
    official_split: npt.NDArray[np.str_]  # (N,) "train_val", "test" or "" (in neither list)
    boxes: dict[str, list[Box]]  # of images with boxes, for the labels above; empty without a box file
    label_file: str  # name of the label file, which identifies its version

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int] | npt.NDArray[Any]) -> NIHTables:
        """Select rows, by index or by a mask of N booleans."""
        index = np.arange(len(self))[rows]
        names = [self.names[i] for i in index]
        columns: dict[str, Any] = {key: each[index] for key, each in vars(self).items() if isinstance(each, np.ndarray)}
        boxes = {name: self.boxes[name] for name in names if name in self.boxes}
        return dataclasses.replace(self, names=names, boxes=boxes, **columns)

    def split(self, split: str, *, val_fraction: float = 0.1, seed: int = 0) -> NIHTables:
        """Return the rows of one split, in the order of the label file; arguments and errors as in `NIHChestXray14`.

        `val` is split off the official train_val list by patient. Patients are sorted by a hash of seed and patient
        number, and the first `val_fraction` of them form `val`. The choice is the same on every platform, and a larger
        fraction contains a smaller one.
        """
        check_choice("split", split, _SPLITS)
        held_out = val_patients(self.patient[self.official_split == "train_val"], val_fraction, seed)
        if split == "all":
            return self
        rows = self.official_split == ("test" if split == "test" else "train_val")
        if split in ("train", "val"):
            in_val = np.isin(self.patient, held_out)
            rows = rows & (in_val if split == "val" else ~in_val)
        if not rows.any():
            raise ValueError(f"split {split!r} has no images (val_fraction={val_fraction}, {len(self)} images in all)")
        return self.select(rows)


def read_nih_tables(root: str | os.PathLike[str], *, labels: Sequence[str] = NIH_LABELS) -> NIHTables:
    """Read the label file, the two official lists and the boxes of the NIH release, without images.

    `Data_Entry_2017_v2020.csv` is preferred over `Data_Entry_2017.csv`. Arguments and errors are those of
    `NIHChestXray14`.
    """
    root = Path(root)
    chosen = tuple(NIH_LABELS[i] for i in label_positions(labels))
    path = _first_file(root, "label file", _LABEL_FILES)
    columns = _read_columns(path)
    names = columns[_NAME]
    row_of = {name: row for row, name in enumerate(names)}
    if twice := [name for row, name in enumerate(names) if row_of[name] != row]:
        raise ValueError(f"{path}: {len(twice)} image names occur more than once: {few(twice)}")

    def numbers(column: str, kind: Callable[[str], Any]) -> npt.NDArray[Any]:
        try:
            return np.array([kind(text) for text in columns[column]])
        except ValueError as error:
            raise ValueError(f"{path}: column {column!r}: {error}") from None

    return NIHTables(
        names=names,
        label_names=chosen,
        targets=_targets(path, columns[_FINDINGS], chosen),
        patient=numbers(_PATIENT, int),
        view=np.array(columns[_VIEW]),
        sex=np.array(columns[_SEX]),
        age=numbers(_AGE, _age),
        official_split=_read_official_split(root, row_of, path),
        boxes=_read_boxes(root / _BOX_FILE, row_of, chosen),
        label_file=path.name,
    )


def few(names: Sequence[str], count: int = 5) -> str:
    """Join the first names for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _first_file(root: Path, what: str, candidates: Sequence[str]) -> Path:
    for name in candidates:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(
        f"no {what} {' or '.join(candidates)} in {str(root)!r}; pass the folder of the NIH release, or list your own "
        "films in a CSV file for CSVDataset"
    )


def val_patients(patients: npt.NDArray[Any], val_fraction: float, seed: int) -> list[Any]:
    """Return the patients (numbers or names) of the validation split: the first in order of a hash."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction!r}")
    unique = sorted(set(patients.tolist()), key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    if val_fraction == 0 or len(unique) < 2:
        return []
    return unique[: min(max(1, round(val_fraction * len(unique))), len(unique) - 1)]


def _read_columns(path: Path) -> dict[str, list[str]]:
    """Return a map of each required column to its cells."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = [_OTHER_COLUMN_NAMES.get(cell.strip(), cell.strip()) for cell in next(reader, [])]
        if missing := [name for name in _COLUMNS if name not in header]:
            raise ValueError(f"{path}: the header {','.join(header)!r} lacks {', '.join(missing)}")
        width = 1 + max(map(header.index, _COLUMNS))
        cells: list[str] = []  # a flat list takes half the time of a list of rows
        for row in reader:
            if 0 < len(row) < width:
                raise ValueError(f"{path}: line {reader.line_num} has {len(row)} columns, expected {width}")
            cells += row[:width]
    if not cells:
        raise ValueError(f"{path}: no rows below the header")
    return {name: cells[header.index(name) :: width] for name in _COLUMNS}


def _age(text: str) -> float:
    """Parse an age such as "58", "058Y", "011M" or "007D" into years."""
    match = re.fullmatch(r"(\d+)([YMWD]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not an age")
    return int(match[1]) * _YEARS_PER_UNIT[match[2]]


def _targets(path: Path, findings: list[str], chosen: tuple[str, ...]) -> npt.NDArray[np.float32]:
    code = {text: row for row, text in enumerate(dict.fromkeys(findings))}  # 836 combinations in 112,120 rows
    vectors = []
    for text in code:
        listed = [name for name in text.split("|") if name != "No Finding"]
        try:
            label_positions(listed or chosen)
        except ValueError as error:
            raise ValueError(f"{path}: findings {text!r}: {error}") from None
        vectors.append([name in listed for name in chosen])
    return np.array(vectors, dtype=np.float32)[[code[text] for text in findings]]


def _read_official_split(root: Path, row_of: dict[str, int], label_file: Path) -> npt.NDArray[np.str_]:
    official = np.full(len(row_of), "", dtype="<U9")
    for split, candidates in _LIST_FILES.items():
        path = _first_file(root, "list", candidates)
        names = path.read_text(encoding="utf-8-sig").split()
        if unknown := [name for name in names if name not in row_of]:
            raise ValueError(
                f"{path}: {len(unknown)} of {len(names)} names are not in {label_file.name}: {few(unknown)}"
            )
        if both := [name for name in names if official[row_of[name]]]:
            raise ValueError(f"{path}: {len(both)} names are in the train_val list as well: {few(both)}")
        official[[row_of[name] for name in names]] = split
    return official


def _read_boxes(path: Path, row_of: dict[str, int], chosen: tuple[str, ...]) -> dict[str, list[Box]]:
    """Return the boxes of images in the label file; none if the release has no box file."""
    boxes: dict[str, list[Box]] = {}
    if not path.is_file():
        return boxes
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if row][1:]
    for row in rows:
        try:
            name, label, *box = map(str.strip, row[:6])
            x, y, w, h = map(float, box)
        except ValueError:
            raise ValueError(f"{path}: invalid row {','.join(row)!r}, expected name,label,x,y,w,h") from None
        label = _BOX_NAMES.get(label, label)
        if name in row_of and label in chosen:
            boxes.setdefault(name, []).append(Box(label, x, y, w, h))
    return boxes
