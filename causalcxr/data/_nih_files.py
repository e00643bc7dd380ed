"""Parsing of the files of the NIH ChestX-ray14 release."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from causalcxr.data.labels import label_positions

__all__ = [
    "BOX_FILE",
    "Box",
    "convert",
    "find_label_file",
    "first_names",
    "parse_age",
    "parse_findings",
    "read_boxes",
    "read_columns",
    "read_official_split",
]

_LABEL_FILES = {"v2020": "Data_Entry_2017_v2020.csv", "2017": "Data_Entry_2017.csv"}
_LIST_FILES = {
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
BOX_FILE = "BBox_List_2017.csv"
_BOX_NAMES = {"Infiltrate": "Infiltration"}
_NO_FINDING = "No Finding"

# Header names of each column; copies of the release differ in one of them. The commas inside the brackets split the
# last two into two columns each.
_COLUMNS = {
    "name": ("Image Index",),
    "findings": ("Finding Labels",),
    "follow_up": ("Follow-up #",),
    "patient": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
    "width": ("OriginalImage[Width",),
    "height": ("Height]",),
    "spacing_x": ("OriginalImagePixelSpacing[x",),
    "spacing_y": ("y]",),
}
_YEARS_PER_UNIT = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


class Box(NamedTuple):
    """A finding marked by a radiologist: upper left corner and size in pixels of the 1024 x 1024 release."""

    label: str
    x: float
    y: float
    w: float
    h: float


def find_label_file(root: Path, label_version: str | None) -> Path:
    if label_version is not None and label_version not in _LABEL_FILES:
        raise ValueError(f"unknown label_version {label_version!r}; choose 'v2020', '2017' or None (newest present)")
    wanted = list(_LABEL_FILES.values()) if label_version is None else [_LABEL_FILES[label_version]]
    for name in wanted:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"no label file {' or '.join(wanted)} in {str(root)!r}")


def read_columns(path: Path) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = [cell.strip() for cell in ",".join(next(reader, [])).split(",")]
        position = {column: _position(path, header, spellings) for column, spellings in _COLUMNS.items()}
        width = max(position.values()) + 1
        cells: list[str] = []  # one flat list: half the time of a list of rows
        for row in reader:
            if 0 < len(row) < width:
                raise ValueError(
                    f"{path}: line {reader.line_num} has {len(row)} columns, expected {width}: {','.join(row)!r}; "
                    "is the file complete?"
                )
            cells += row[:width]
    if not cells:
        raise ValueError(f"{path}: no rows below the header")
    return {column: cells[i::width] for column, i in position.items()}


def _position(path: Path, header: list[str], spellings: tuple[str, ...]) -> int:
    for name in spellings:
        if name in header:
            return header.index(name)
    raise ValueError(f"{path}: no column {' or '.join(map(repr, spellings))}; the header is {','.join(header)!r}")


def convert(path: Path, column: str, texts: list[str], kind: Callable[[str], Any]) -> npt.NDArray[Any]:
    try:
        return np.array([kind(text) for text in texts])
    except ValueError:
        row = next(i for i, text in enumerate(texts) if not _converts(text, kind))
        raise ValueError(
            f"{path}: {_COLUMNS[column][0]!r} of data row {row + 1} is {texts[row]!r}, expected a number"
        ) from None


def _converts(text: str, kind: Callable[[str], Any]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def parse_age(text: str) -> float:
    """Years from "58", "058Y", "011M" or "007D"."""
    match = re.fullmatch(r"(\d+)([YMWD]?)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _YEARS_PER_UNIT[match[2]]


def parse_findings(path: Path, findings: list[str], chosen: tuple[str, ...]) -> npt.NDArray[np.float32]:
    column = {name: k for k, name in enumerate(chosen)}
    code = {text: i for i, text in enumerate(dict.fromkeys(findings))}  # 836 combinations in 112,120 rows
    vectors = np.zeros((len(code), len(chosen)), dtype=np.float32)
    for text, i in code.items():
        listed = [name for name in text.split("|") if name != _NO_FINDING]
        try:
            if listed:
                label_positions(listed)
        except ValueError as error:
            raise ValueError(f"{path}: findings of data row {findings.index(text) + 1}: {error}") from None
        vectors[i, [column[name] for name in listed if name in column]] = 1
    return vectors[[code[text] for text in findings]]


def read_official_split(root: Path, row_of: dict[str, int], label_file: str) -> npt.NDArray[np.str_]:
    official = np.full(len(row_of), "", dtype="<U9")
    for split, candidates in _LIST_FILES.items():
        path = next((root / name for name in candidates if (root / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no list {' or '.join(candidates)} in {str(root)!r}")
        names = path.read_text(encoding="utf-8-sig").split()
        unknown = [name for name in names if name not in row_of]
        if unknown:
            raise ValueError(
                f"{path}: {len(unknown)} of {len(names)} names are not in {label_file}: {first_names(unknown)}"
            )
        rows = np.array([row_of[name] for name in names], dtype=np.int64)
        if official[rows].any():
            both = [name for name in names if official[row_of[name]]]
            raise ValueError(f"{path}: {len(both)} names are in the train_val list as well: {first_names(both)}")
        official[rows] = split
    return official


def read_boxes(path: Path, row_of: dict[str, int], chosen: tuple[str, ...]) -> dict[str, list[Box]]:
    """Boxes of the images in the table; none where the release has no box file."""
    boxes: dict[str, list[Box]] = {}
    if not path.is_file():
        return boxes
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row][1:]
    for number, row in enumerate(rows, start=1):
        try:
            name, label = row[0].strip(), row[1].strip()
            x, y, w, h = (float(value) for value in row[2:6])
        except (ValueError, IndexError):
            raise ValueError(f"{path}: data row {number} is {','.join(row)!r}, expected name,label,x,y,w,h") from None
        label = _BOX_NAMES.get(label, label)
        if name in row_of and label in chosen:
            boxes.setdefault(name, []).append(Box(label, x, y, w, h))
    return boxes


def first_names(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
