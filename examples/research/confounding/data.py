"""Radiographs with one finding and a painted or natural confounder, split into training, validation and tests."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from causalcxr.bench import ConfoundedDataset, StratifiedImages, subsample
from causalcxr.data import NIH_LABELS, NIHChestXray14, SyntheticCXR, read_image

VAL_FRACTION = 0.15
VAL_FRACTION_OF_ONE_FINDING = 0.3  # higher, since positives are rarer


class Radiographs(NamedTuple):
    """Images (N, 1, S, S) as uint8 with one finding (N,), and their metadata."""

    images: Tensor
    targets: Tensor
    patient: npt.NDArray[Any]  # the index of the image if patients are unknown
    part: npt.NDArray[np.str_]  # "train", "val" or "test"
    ap: npt.NDArray[np.bool_] | None = None
    age: npt.NDArray[Any] | None = None

    def select(self, part: str) -> "Radiographs":
        chosen = np.flatnonzero(self.part == part)
        return Radiographs(*(None if field is None else field[chosen] for field in self))


class Parts(NamedTuple):
    """Datasets of one experiment. Nothing is selected on the tests."""

    train: Any
    val: Any
    tests: dict[str, Any]


def read(source: str, root: Path | None, size: int) -> Radiographs:
    """Read all images.

    Args:
        source: `pneumonia` (against normal), `nih` (any finding against none), `nih:FINDING` (against its absence), or
            `synthetic:NUMBER`.
        root: Folder of the images, except for `synthetic`. For `pneumonia` it has images/ and labels.csv (file, split,
            label).
        size: Side of the images in pixels.
    """
    name, _, which = source.partition(":")
    if name == "synthetic":
        return _read_synthetic(int(which), size)
    if root is None:
        raise ValueError(f"{source} needs the folder of its images: --data")
    return _read_pneumonia(root, size) if name == "pneumonia" else _read_nih(root, size, which)


def _read_pneumonia(root: Path, size: int) -> Radiographs:
    """Read films of children with and without pneumonia (Kermany et al., Cell 2018). Patients are unknown."""
    with open(root / "labels.csv", newline="") as file:
        table = list(csv.DictReader(file))
    images = torch.stack(
        [_as_bytes(read_image(root / "images" / row["file"], size=size)) for row in tqdm(table, "images", leave=False)]
    )
    part = np.array([row["split"] for row in table])
    train = np.flatnonzero(part == "train")
    part[np.random.default_rng(0).permutation(train)[: round(VAL_FRACTION * len(train))]] = "val"
    targets = torch.tensor([float(row["label"] != "normal") for row in table])
    return Radiographs(images, targets, np.arange(len(table)), part)


def _read_nih(root: Path, size: int, finding: str) -> Radiographs:
    """Read films labelled by one finding, or by any of the 14, on the official split."""
    labels = [finding] if finding else NIH_LABELS
    val_fraction = VAL_FRACTION_OF_ONE_FINDING if finding else VAL_FRACTION
    splits = {
        split: NIHChestXray14(root, split, labels=labels, image_size=size, val_fraction=val_fraction)
        for split in ("train", "val", "test")
    }
    images = [_as_bytes(item[0]) for data in splits.values() for item in tqdm(data, "images", leave=False)]
    return Radiographs(
        torch.stack(images),
        torch.cat([data.targets.any(dim=1).float() for data in splits.values()]),
        np.concatenate([data.patient for data in splits.values()]),
        np.repeat(list(splits), [len(data) for data in splits.values()]),
        np.concatenate([data.view == "AP" for data in splits.values()]),
        np.concatenate([data.age for data in splits.values()]),
    )


def _read_synthetic(number: int, size: int) -> Radiographs:
    """Generate radiographs without markers, half of them with a nodule."""
    data = SyntheticCXR(number, image_size=size, labels=["Nodule"], prevalence=0.5, images_per_patient=1)
    images = [_as_bytes(data.sample(i, markers=[]).image) for i in tqdm(range(number), "images", leave=False)]
    part = np.array(["train", "train", "train", "val", "test", "test"])[np.arange(number) % 6]
    return Radiographs(torch.stack(images), data.targets[:, 0], data.patient, part, data.view == "AP", data.age)


def _as_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().byte()


def confound(radiographs: Radiographs, confounder: str, correlation: float, trained_at: float, seed: int) -> Parts:
    """Add a confounder to the images: a painted marker, or `"view"`.

    Args:
        radiographs: The images.
        confounder: One of `causalcxr.bench.MARKERS`, or `"view"`.
        correlation: Correlation of the test "same". "reversed" has the opposite one.
        trained_at: Correlation in training and validation: the same, or 0.5 for the unconfounded reference.
        seed: Random seed.
    """
    parts = [radiographs.select(part) for part in ("train", "val", "test")]
    tested_at = {"same": correlation, "none": 0.5, "reversed": 1 - correlation}
    if confounder == "view":
        train, val = (_by_view(part, trained_at, seed) for part in parts[:2])
        return Parts(train, val, {name: _by_view(parts[2], value, seed) for name, value in tested_at.items()})
    train, val, test = (
        ConfoundedDataset(
            part.images, part.targets, marker=confounder, correlation=value, seed=3 * seed + k, patient=part.patient
        )
        for k, (part, value) in enumerate(zip(parts, (trained_at, trained_at, correlation), strict=True))
    )
    tests = {name: test.with_correlation(value) for name, value in tested_at.items()}
    return Parts(train, val, tests | {"absent": test.without_markers()})


def _by_view(part: Radiographs, correlation: float, seed: int) -> StratifiedImages:
    chosen = subsample(part.targets, part.ap, correlation, patient=part.patient, age=part.age, seed=seed)
    return StratifiedImages(part.images[chosen], part.targets[chosen], part.ap[chosen], patient=part.patient[chosen])
