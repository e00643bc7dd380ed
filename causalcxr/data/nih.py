"""NIH ChestX-ray14 dataset."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from causalcxr._checks import check_choice
from causalcxr.data.films import FilmFiles
from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih_tables import Box, few, read_nih_tables

__all__ = ["Box", "NIHChestXray14"]


class NIHChestXray14(FilmFiles):
    """Images and labels of NIH ChestX-ray14, in the layout of the release.

    Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification
    and Localization of Common Thorax Diseases", CVPR 2017. The folder holds the label file
    (`Data_Entry_2017_v2020.csv`, or else `Data_Entry_2017.csv`), `train_val_list.txt` and `test_list.txt` (or
    `..._NIH.txt`), optionally `BBox_List_2017.csv`, and the images in `images/` or in `images_001/images` to
    `images_012/images`.

    The constructor lists the image folders and reports missing images. Images are opened only when an item is read. A
    damaged image then raises a `ValueError` that names the file.

    Args:
        root: Folder of the release.
        split: "train", "val", "train_val", "test" or "all". `val` is split off the official train_val list by patient:
            `train` and `val` share no patient and together make up `train_val`.
        image_size: Side, or (height, width), to resize to; `None` keeps the original size.
        transform: Applied to each image, a (1, H, W) float32 tensor in [0, 1].
        labels: Columns of the targets: any names from `NIH_LABELS`, in any order.
        val_fraction: Fraction of the train_val patients in `val`.
        seed: Random seed of the split into `train` and `val`.
        bad_images: "raise" to fail if images are missing, or "skip" to leave them out with one warning. Damaged images
            are never skipped.

    Attributes:
        names: File names, in the order of the label file, like the attributes below.
        paths: Full path of each image.
        label_names: Names of the columns of `targets`.
        targets: (N, K) float32 tensor.
        patient: (N,) patient numbers.
        view: (N,) "AP" or "PA".
        sex: (N,) "M" or "F".
        age: (N,) years.
        boxes: Maps image names to lists of `Box`, in pixels of the 1024 x 1024 release.
        label_file: Name of the label file, which identifies its version.
        skipped: Names of the skipped images.

    Shape:
        Each item is an image (1, H, W) and its target (K,).

    Raises:
        FileNotFoundError: The folder or a table is missing, or any image (with "skip", all images).
        ValueError: The tables are inconsistent, or a split, label or option is unknown.

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
        val_fraction: float = 0.1,
        seed: int = 0,
        bad_images: str = "raise",
    ) -> None:
        check_choice("bad_images", bad_images, ("raise", "skip"))
        self.image_size = image_size
        self.transform = transform
        tables = read_nih_tables(root, labels=labels).split(split, val_fraction=val_fraction, seed=seed)
        folders = [f for f in (Path(root, "images"), *sorted(Path(root).glob("images_*/images"))) if f.is_dir()]
        # Each folder is listed once: checking every file would take minutes on a network disk.
        path_of = {name: os.path.join(folder, name) for folder in folders for name in os.listdir(folder)}
        self.skipped = [name for name in tables.names if name not in path_of]
        if self.skipped:
            problem = (
                f"{len(self.skipped)} of {len(tables)} images of split {split!r} are not in {os.fspath(root)!r} "
                f"(searched 'images' and 'images_*/images'): {few(self.skipped)}"
            )
            if bad_images == "raise" or len(self.skipped) == len(tables):
                raise FileNotFoundError(f"{problem}; restore them, or pass bad_images='skip'")
            warnings.warn(f"{problem}; skipping them", stacklevel=2)
        tables = tables.select([name in path_of for name in tables.names])
        self.paths = [path_of[name] for name in tables.names]
        self.names = tables.names
        self.label_names = tables.label_names
        self.targets = torch.from_numpy(tables.targets)
        self.patient, self.view, self.sex, self.age = tables.patient, tables.view, tables.sex, tables.age
        self.boxes, self.label_file = tables.boxes, tables.label_file
