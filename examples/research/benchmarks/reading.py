"""Measure how many images per second the data loader of `train.py` reads and augments.

    python -m benchmarks.reading --workers 16 --json benchmarks/results/reading_gpu.json

The films are generated at the image size in a temporary folder, and counted for SECONDS.
"""

import argparse
import runpy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, RandomSampler

from records import markdown_table

from .measuring import Row, command
from .predict import write_films

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def images_a_second(table: Path, pixels: int, batch_size: int, workers: int, seconds: float, *, augment: bool) -> float:
    """Return the throughput of the running loader."""
    options = {"data": str(table), "labels": None, "image_size": pixels, "val_fraction": 0.1, "no_augment": not augment}
    dataset, _ = runpy.run_path(str(TRAIN))["build_data"](argparse.Namespace(**options))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # never ends an epoch, which would stall
    batches: Any = iter(DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers))
    for _ in range(2 * workers):  # skip batches prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count == 0:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - started)


def reading(films: int, pixels: int, workers: int, **options: Any) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        names = [path.name for path in write_films(Path(folder), "PNG", films, pixels)]
        table = Path(folder) / "films.csv"
        table.write_text("\n".join(["path,finding", *(f"{name},0" for name in names)]))
        read, augmented = (
            images_a_second(table, pixels=pixels, workers=workers, augment=augment, **options)
            for augment in (False, True)
        )
    return {"read": round(read, 1), "augmented": round(augmented, 1), "workers": workers}


def rows(pixels: int, workers: int, **options: Any) -> dict[str, Callable[[], Row]]:
    title = f"{pixels} px PNG, {workers} workers"
    return {title: partial(reading, pixels=pixels, workers=workers, **options)}


def table(found: dict[str, Row]) -> str:
    body = [[title, f"{row['read']:.0f}", f"{row['augmented']:.0f}"] for title, row in found.items()]
    return markdown_table(["films", "read, images/s", "read and augmented, images/s"], body)


def main(argv: list[str] | None = None) -> None:
    command(__doc__, rows, table, argv, pixels=512, films=1500, batch_size=32, workers=2, seconds=3.0)


if __name__ == "__main__":
    main()
