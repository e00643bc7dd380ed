"""Dataset of images and labels listed in a CSV file."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from causalcxr._checks import check_choice
from causalcxr.data.image import read_image
from causalcxr.data.labels import label_positions
from causalcxr.data.nih_tables import few, val_patients

__all__ = ["CSVDataset"]

# Lower case. pandas writes 1.0 in columns with empty cells, and True; Excel writes TRUE.
TARGETS = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


class FilmFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images, read from files on demand, and their targets."""

    paths: list[str]
    targets: torch.Tensor
    image_size: int | tuple[int, int] | None
    transform: Callable[[torch.Tensor], torch.Tensor] | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = read_image(self.paths[index], size=self.image_size)
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index].clone()  # a view would let callers change the labels


class CSVDataset(FilmFiles):
    r"""Images and labels listed in a CSV file.

    The file needs a column `path`, absolute or relative to the folder of the file, and may have a column `patient`.
    All other columns, or only those in `label_names`, are labels: 0, 1 or empty for unknown. Without a `patient`
    column, each image counts as a separate patient. If a patient has several images, `train` and `val` may then share
    that patient.

    Images are opened only when an item is read. A damaged image then raises a `ValueError` that names the file.

    Args:
        table: CSV file, UTF-8 and comma-separated.
        split: "train", "val" or "all". `val` is split off by patient. It does not depend on the platform or on the
            order of the rows.
        label_names: Label columns, in the order of the targets. Default: all but `path` and `patient`.
        image_size: Side, or (height, width), to resize to; `None` keeps the original size.
        transform: Applied to each image, a (1, H, W) float32 tensor in [0, 1].
        val_fraction: Fraction of the patients in `val`; at least one patient unless 0.
        seed: Random seed of the split into `train` and `val`.

    Attributes:
        names: Values of `path`, in the order of the file, like the attributes below.
        paths: Full path of each image.
        label_names: Names of the columns of `targets`.
        targets: (N, K) float32 tensor of 0, 1 and NaN (unknown).
        patient: (N,) values of `patient`, or of `path` without that column.
        metadata: Columns that are not labels, by name, (N,) strings each. Empty without `label_names`.

    Shape:
        Each item is an image (1, H, W) and its target (K,).

    Raises:
        FileNotFoundError: The table or an image is missing.
        ValueError: The table is malformed, a label is unknown or not 0, 1 or empty, or the split is unknown or empty.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> Image.new("L", (6, 4), 51).save(folder / "a.png")
        >>> _ = (folder / "films.csv").write_text("path,patient,Effusion,Mass\na.png,p1,1,\n")
        >>> image, target = CSVDataset(folder / "films.csv", "all")[0]
        >>> image.shape, target
        (torch.Size([1, 4, 6]), tensor([1., nan]))
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        split: str = "train",
        *,
        label_names: Sequence[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_choice("split", split, ("train", "val", "all"))
        self.image_size = image_size
        self.transform = transform
        columns, rows = read_rows(table)
        others = [name for name in columns if name not in ("path", "patient")]
        if "path" not in columns or not others or "" in columns or len(set(columns)) < len(columns):
            raise ValueError(
                f"{table}: the header must have 'path', optionally 'patient', and at least one label, separated by "
                f"commas, with no empty or repeated names, but is {','.join(columns)!r}"
            )
        similar = [name for name in others if re.sub(r"[\W_]", "", name.lower()) in ("patient", "patientid")]
        if similar and "patient" not in columns:
            raise ValueError(f"{table}: rename the column {similar[0]!r} to 'patient', so that no patient is split")
        try:
            labels = others if label_names is None else [others[k] for k in label_positions(label_names, others)]
        except ValueError as error:
            raise ValueError(f"{table} does not have these columns: {error}") from error
        for line, row in rows:
            if wrong := [name for name in labels if row[name].strip().lower() not in TARGETS]:
                raise ValueError(
                    f"{line}: column {wrong[0]!r} has {row[wrong[0]]!r}, but a label is 0, 1 or empty (unknown); "
                    "if some columns are not labels, select those that are with label_names= or --labels"
                )
            row["patient"] = row.get("patient", row["path"]).strip()
            if not row["patient"]:
                raise ValueError(f"{line}: 'patient' or 'path' is empty")
        counts = Counter(os.path.normpath(row["path"]) for _, row in rows)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{table}: {len(twice)} paths occur more than once: {few(twice)}")
        patients = np.array([row["patient"] for _, row in rows])
        in_val = np.isin(patients, val_patients(patients, val_fraction, seed))
        chosen = [row for (_, row), val in zip(rows, in_val, strict=True) if split == "all" or val == (split == "val")]
        if not chosen:
            raise ValueError(f"{table}: split {split!r} has no images ({val_fraction=}, {len(rows)} images in all)")
        self.names = [row["path"] for row in chosen]
        self.patient = np.array([row["patient"] for row in chosen])
        self.label_names = tuple(labels)
        targets = [[TARGETS[row[name].strip().lower()] for name in labels] for row in chosen]
        self.targets = torch.tensor(targets, dtype=torch.float32)
        self.metadata = {name: np.array([row[name] for row in chosen]) for name in others if name not in labels}
        self.paths = [os.path.join(os.path.dirname(table), name) for name in self.names]
        if missing := [name for name, path in zip(self.names, self.paths, strict=True) if not os.path.isfile(path)]:
            raise FileNotFoundError(
                f"{table}: {len(missing)} of {len(chosen)} images are missing: {few(missing)}; "
                "paths must be absolute or relative to the folder of the table"
            )


def read_rows(
    table: str | os.PathLike[str], errors: str = "strict"
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the columns of a CSV file and its rows, each with its file and line for error messages."""
    with open(table, newline="", encoding="utf-8-sig", errors=errors) as file:
        reader = csv.DictReader(file)
        try:
            columns = list(reader.fieldnames or ())
            rows = [(f"{table}, line {reader.line_num}", row) for row in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{table}: {error}; save it as UTF-8, with commas") from error
    for line, row in rows:
        if None in row or None in row.values():  # csv marks extra and missing cells this way
            raise ValueError(f"{line}: expected {len(columns)} comma-separated cells, as in the header")
    return columns, rows
