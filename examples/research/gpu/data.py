"""Part "data": how many images a second train.py reads and augments, and whether that or the model is the limit."""

import argparse
import csv
import json
import os
import runpy
import sys
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler

from causalcxr.data import SyntheticCXR
from gpu.recording import Record, arguments

TRAIN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "train.py"))  # its functions by name
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def _write(number: int, folder: Path, pixels: int) -> str:
    """Write one generated film as an 8-bit grey PNG, of about the size of a real one."""
    image = SyntheticCXR(number + 1, image_size=pixels)[number][0][0]
    name = f"{number:08}_000.png"
    Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).save(folder / "images" / name)
    return name


def write_release(folder: Path, count: int, pixels: int, workers: int) -> None:
    """Write films and tables in the layout of the NIH release, all in its training list."""
    (folder / "images").mkdir(parents=True)
    write = partial(_write, folder=folder, pixels=pixels)
    with get_context("fork").Pool(workers, torch.set_num_threads, (1,)) as pool:
        names = pool.map(write, range(count), chunksize=8)
    with open(folder / "Data_Entry_2017_v2020.csv", "w", newline="") as table:
        table.write(HEADER + "\n")
        rows = csv.writer(table)
        for number, name in enumerate(names):
            rows.writerow([name, "No Finding", 0, number, 50, "F", "PA", pixels, pixels, 0.143, 0.143])
    (folder / "train_val_list.txt").write_text("\n".join(names) + "\n")
    (folder / "test_list.txt").write_text("")


def images_a_second(folder: Path, *, pixels: int, batch: int, workers: int, seconds: float, augment: bool) -> float:
    """Return what a loader yields once it runs, of the data set that train.py makes."""
    options = {"data": str(folder), "image_size": pixels, "val_fraction": 0.1, "no_augment": not augment}
    dataset, _ = TRAIN["build_data"](argparse.Namespace(**options))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # no end of an epoch, which would stall
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers)
    batches = iter(loader)
    for _ in range(2 * workers):  # what was prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count == 0:
        count += len(next(batches)[0])
    rate = count / (time.perf_counter() - started)
    del batches
    return rate


def read(record: Record, *, stored: int, count: int, seconds: float) -> None:
    """Read and augment files of one size by a loader."""
    small = record.args.small
    workers = 2 if small else min(16, len(os.sched_getaffinity(0)))
    pixels = 64 if small else 512
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_release(Path(folder) / "release", count, stored, workers)
        written = time.perf_counter() - started
        sizes = [path.stat().st_size for path in (Path(folder) / "release" / "images").iterdir()]
        options = {"pixels": pixels, "batch": 2 if small else 32, "workers": workers, "seconds": seconds}
        read_alone, rate = (
            images_a_second(Path(folder) / "release", augment=augment, **options) for augment in (False, True)
        )
    record.content.setdefault("reading_rate", {})[str(stored)] = rate
    record.row(
        f"{stored} px PNG at {pixels} px, {workers} workers",
        f"{read_alone:.0f} images/s read, {rate:.0f} images/s read and augmented ({rate / workers:.0f} a worker)",
        images_a_second={"read": read_alone, "read_and_augmented": rate},
        workers=workers,
        kilobytes_a_file=sum(sizes) / len(sizes) / 1e3,
        seconds_to_write=written,
    )


def limit(record: Record) -> None:
    """Compare with what the model takes, as the part "speed" measured it."""
    try:
        speed = json.loads((record.args.output / "speed.json").read_text())["rows"]
    except (OSError, ValueError, KeyError):
        speed = []
    taken = [row["images_a_second"]["ours"] for row in speed if "training" in row["name"] and "images_a_second" in row]
    if not taken:
        record.row("limit", "unknown: the part speed has left no training step to compare with")
        return
    for stored, rate in record.content.get("reading_rate", {}).items():
        which = "reading" if rate < taken[0] else "the model"
        record.row(
            f"limit of training from {stored} px files",
            f"{which}: {rate:.0f} images/s are read and augmented, {taken[0]:.0f} trained on",
            read=rate,
            trained=taken[0],
        )


def main() -> int:
    args = arguments(__doc__)
    record = Record("data", args)
    torch.manual_seed(args.seed)
    small = args.small
    sizes = ((64, 16, 0.2), (128, 8, 0.2)) if small else ((512, 1500, 3.0), (1024, 48, 2.0))
    reading = [
        (f"read {stored} px", partial(read, stored=stored, count=count, seconds=seconds))
        for stored, count, seconds in sizes
    ]
    return record.run([*reading, ("limit", limit)])


if __name__ == "__main__":
    sys.exit(main())
