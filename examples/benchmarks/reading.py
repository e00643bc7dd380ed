"""Reading and augmenting images of 512 px: from files of that size, and from the 1024 px of the release."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from augmentation import augment
from causalcxr.data import read_image
from prepare_nih import write_grey
from recipe import Config

AUGMENTATION = Config().augmentation


@contextlib.contextmanager
def reading_sides(release: Path) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield a title and the two sides, each over all images on one core."""
    with tempfile.TemporaryDirectory() as folder:
        large = sorted(release.glob("*.png"))
        if not large:
            raise ValueError(f"{release} has no PNG files; give a folder of images of the NIH release")
        small = [Path(folder) / path.name for path in large]
        for path, copy in zip(large, small, strict=True):
            write_grey(read_image(path, size=512), copy)
        title = f"reading and augmenting {len(large)} NIH images at 512 px from a resized copy, one core | from 1024 px"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield title, {"ours": lambda: _read_and_augment(small), "theirs": lambda: _read_and_augment(large)}
        finally:
            torch.set_num_threads(threads)


def _read_and_augment(paths: list[Path]) -> None:
    for index, path in enumerate(paths):
        augment(read_image(path, size=512)[None], torch.tensor([index]), 0, **AUGMENTATION)
