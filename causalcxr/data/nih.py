"""NIH ChestX-ray14 as a dataset of images and targets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from causalcxr.data._nih_files import first_names
from causalcxr.data.image import inspect_image_file, read_image
from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih_tables import Box, NIHTables, read_nih_tables

__all__ = ["Box", "NIHChestXray14"]

_NOT_ON_DISK = "not on disk"


class NIHChestXray14(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and labels of NIH ChestX-ray14, in the layout of the release.

    Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification
    and Localization of Common Thorax Diseases", CVPR 2017. The folder holds the label file
    (``Data_Entry_2017_v2020.csv`` or ``Data_Entry_2017.csv``), ``train_val_list.txt`` and ``test_list.txt`` (or
    ``..._NIH.txt``), optionally ``BBox_List_2017.csv``, and the images in ``images/`` or in ``images_001/images`` to
    ``images_012/images``.

    Every file of the split is looked at on construction, so that missing and truncated images are reported before
    training starts. Damage in the middle of a file is found when it is read: a ``ValueError`` that names the file.

    Args:
        root: Folder of the release.
        split: "train", "val", "train_val", "test" or "all". ``val`` is carved out of the official train_val list by
            patient; ``train`` and ``val`` share no patient and are together ``train_val``.
        image_size: Side, or (height, width), of the images; ``None`` keeps the stored size.
        transform: Applied to each image, a (1, H, W) float32 tensor in [0, 1].
        labels: Columns of the targets: names from `NIH_LABELS`, fewer or in another order where wanted.
        label_version: "v2020", "2017", or ``None`` for the newer label file that is there.
        val_fraction: Fraction of the train_val patients in ``val``.
        seed: Number of the division into ``train`` and ``val``.
        bad_images: "raise" when images are missing or damaged, or "skip" them: leave them out, with one warning, and
            list them in ``skipped``.

    Attributes:
        names: File names, in the order of the label file, as all that follows.
        label_names: Names of the columns of ``targets``.
        targets: (N, K) float32 tensor.
        patient: (N,) patient numbers.
        view: (N,) "AP" or "PA".
        sex: (N,) "M" or "F".
        age: (N,) years.
        follow_up: (N,) follow-up numbers.
        original_size: (N, 2) width and height before the release's reduction to 1024 x 1024.
        spacing: (N, 2) pixel spacing in millimetres before that reduction.
        boxes: Image name to its list of `Box`, in pixels of the 1024 x 1024 release.
        label_file: Name of the label file, which tells its version.
        skipped: Name of each image that was left out to the reason.

    Shape:
        Each item is an image (1, H, W) and its target (K,).

    Raises:
        FileNotFoundError: The folder, a table or images are missing.
        ValueError: Damaged images, tables that do not fit together, an unknown split, label or option.

    Example:
        >>> dataset = NIHChestXray14("path/to/nih", "train", image_size=512)  # doctest: +SKIP
        >>> image, target = dataset[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        image_size: int | tuple[int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        labels: Sequence[str] = NIH_LABELS,
        label_version: str | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        bad_images: str = "raise",
    ) -> None:
        if bad_images not in ("raise", "skip"):
            raise ValueError(f"bad_images must be 'raise' or 'skip', got {bad_images!r}")
        self.root = Path(root)
        self.split = split
        self.image_size = image_size
        self.transform = transform
        tables = read_nih_tables(root, labels=labels, label_version=label_version)
        tables = tables.split(split, val_fraction=val_fraction, seed=seed)
        folders, folder_of = _index_images(self.root)
        bad = _find_bad_images(tables.names, folders, folder_of)
        if bad:
            _report(bad, len(tables), split, folders, skip=bad_images == "skip")
            tables = tables.select([i for i, name in enumerate(tables.names) if name not in bad])
        self.skipped = bad
        self._folders = folders
        self._folder_index = [folder_of[name] for name in tables.names]
        self._set_columns(tables)

    def _set_columns(self, tables: NIHTables) -> None:
        self.names = tables.names
        self.label_names = tables.label_names
        self.targets = torch.from_numpy(tables.targets)
        self.patient = tables.patient
        self.view = tables.view
        self.sex = tables.sex
        self.age = tables.age
        self.follow_up = tables.follow_up
        self.original_size = tables.original_size
        self.spacing = tables.spacing
        self.boxes = tables.boxes
        self.label_file = tables.label_file

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = read_image(self.image_path(index), size=self.image_size)
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index].clone()  # a view would let callers change the labels

    def image_path(self, index: int) -> str:
        """Path of the image of one item.

        Args:
            index: Number of the item.

        Returns:
            The path, below ``root``.
        """
        return os.path.join(self._folders[self._folder_index[index]], self.names[index])


def _index_images(root: Path) -> tuple[list[str], dict[str, int]]:
    """List each image folder once; a look-up per file would cost minutes on a network disk."""
    folders = [str(f) for f in (root / "images", *sorted(root.glob("images_*/images"))) if f.is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"no image folder in {str(root)!r}: looked for 'images' and for 'images_001/images' and so on; "
            "unpack the image archives there, or use read_nih_tables for the tables alone"
        )
    folder_of: dict[str, int] = {}
    for number, folder in enumerate(folders):
        for name in os.listdir(folder):
            folder_of.setdefault(name, number)
    return folders, folder_of


def _find_bad_images(names: list[str], folders: list[str], folder_of: dict[str, int]) -> dict[str, str]:
    bad: dict[str, str] = {}
    for name in names:
        number = folder_of.get(name)
        reason = _NOT_ON_DISK if number is None else inspect_image_file(os.path.join(folders[number], name))
        if reason is not None:
            bad[name] = reason
    return bad


def _report(bad: dict[str, str], total: int, split: str, folders: list[str], *, skip: bool) -> None:
    """Raise, or warn where the bad images are to be skipped and some good ones remain."""
    missing = [name for name, reason in bad.items() if reason == _NOT_ON_DISK]
    damaged = [f"{name} ({reason})" for name, reason in bad.items() if reason != _NOT_ON_DISK]
    parts = []
    if missing:
        parts.append(f"{len(missing)} not on disk: {first_names(missing)}")
    if damaged:
        parts.append(f"{len(damaged)} damaged: {first_names(damaged)}")
    summary = "; ".join(parts)
    if skip and len(bad) < total:
        warnings.warn(
            f"{len(bad)} of {total} images of split {split!r} are left out (see `skipped`): {summary}", stacklevel=3
        )
        return
    looked = ", ".join(folders)
    if len(bad) == total:
        message = f"none of the {total} images of split {split!r} can be used ({summary}); looked in: {looked}"
    else:
        message = (
            f"{len(bad)} of {total} images of split {split!r} cannot be used ({summary}); looked in: {looked}; "
            "restore them, or leave them out with bad_images='skip'"
        )
    raise FileNotFoundError(message) if missing else ValueError(message)
