"""Part "data": how many images a second train.py reads and augments."""

import argparse
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
    (folder / "images").mkdir()
    write = partial(_write, folder=folder, pixels=pixels)
    with get_context("fork").Pool(workers, torch.set_num_threads, (1,)) as pool:
        names = pool.map(write, range(count), chunksize=8)
    rows = [f"{name},No Finding,0,{i},50,F,PA,{pixels},{pixels},0.143,0.143" for i, name in enumerate(names)]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(names) + "\n")
    (folder / "test_list.txt").write_text("")


def images_a_second(folder: str, *, pixels: int, batch: int, workers: int, seconds: float, augment: bool) -> float:
    """Return what a loader yields once it runs, of the data set that train.py makes."""
    options = {"data": folder, "image_size": pixels, "val_fraction": 0.1, "no_augment": not augment}
    dataset, _ = TRAIN["build_data"](argparse.Namespace(**options))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # no end of an epoch, which would stall
    batches: Any = iter(DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers))
    for _ in range(2 * workers):  # what was prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count == 0:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - started)


def reading(record: Record) -> None:
    """Read, and read and augment, files of the size of the images."""
    small = record.args.small
    workers = 2 if small else min(16, len(os.sched_getaffinity(0)))
    count, pixels, batch, seconds = (16, 64, 2, 0.2) if small else (1500, 512, 32, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        write_release(Path(folder), count, pixels, workers)
        options = {"pixels": pixels, "batch": batch, "workers": workers, "seconds": seconds}
        read, rate = (images_a_second(folder, augment=augment, **options) for augment in (False, True))
    record.row(
        f"{pixels} px PNG at {pixels} px, {workers} workers",
        f"{read:.0f} images/s read, {rate:.0f} images/s read and augmented ({rate / workers:.0f} a worker)",
        images_a_second={"read": read, "read_and_augmented": rate},
        workers=workers,
    )


if __name__ == "__main__":
    sys.exit(Record("data", arguments(__doc__)).run([reading]))
