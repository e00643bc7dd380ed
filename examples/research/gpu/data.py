"""Part "data": how many images a second can be read and augmented, and whether that or the model is the limit."""

import csv
import json
import os
import sys
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from causalcxr.data import NIHChestXray14, SyntheticCXR
from gpu.recording import Record, arguments
from gpu.timing import interleaved

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


def images_a_second(folder: Path, *, pixels: int, batch: int, workers: int, seconds: float, pin: bool) -> float:
    """Return what a loader yields once it runs."""
    dataset = NIHChestXray14(folder, "train", image_size=pixels)
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # no end of an epoch, which would stall
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch, sampler=sampler, num_workers=workers, pin_memory=pin
    )
    batches = iter(loader)
    for _ in range(2 * workers):  # what was prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count == 0:
        count += len(next(batches)[0])
    rate = count / (time.perf_counter() - started)
    del batches
    return rate


def augment(images: Tensor) -> Tensor:
    """Turn, scale, shift and mirror each image by its own random amounts, change its contrast, repeat its channel."""
    batch, device = len(images), images.device
    angle = (torch.rand(batch, device=device) - 0.5) * 0.35  # 10 degrees either way
    scale = 1 + (torch.rand(batch, device=device) - 0.5) * 0.2
    mirror = torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    shift = (torch.rand(batch, 2, device=device) - 0.5) * 0.1
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1]], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    contrast = 1 + (torch.rand(batch, 1, 1, 1, device=device) - 0.5) * 0.4
    return ((moved - 0.5) * contrast).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def on_device(record: Record) -> None:
    """Copy and augment batches on the device."""
    small, device = record.args.small, record.args.device
    batch, pixels = (2, 64) if small else (64, 512)
    host = torch.rand(batch, 1, pixels, pixels)
    host = host.pin_memory() if device == "cuda" else host
    there = host.to(device)
    copying, augmenting = interleaved(
        [lambda: host.to(device, non_blocking=True), lambda: augment(there)], device, rounds=1 if small else 20
    )
    record.content["device_rate"] = 1e3 * batch / (copying + augmenting)
    record.row(
        f"copy to the device and augment there, {pixels} px, batch {batch}",
        f"{1e3 * batch / copying:.0f} and {1e3 * batch / augmenting:.0f} images/s",
        milliseconds={"copy": copying, "augment": augmenting},
    )


def read(record: Record, *, stored: int, count: int, seconds: float) -> None:
    """Read and resize files of one size by a loader."""
    small = record.args.small
    workers = 2 if small else min(16, len(os.sched_getaffinity(0)))
    pixels = 64 if small else 512
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_release(Path(folder) / "release", count, stored, workers)
        written = time.perf_counter() - started
        sizes = [path.stat().st_size for path in (Path(folder) / "release" / "images").iterdir()]
        rate = images_a_second(
            Path(folder) / "release",
            pixels=pixels,
            batch=2 if small else 32,
            workers=workers,
            seconds=seconds,
            pin=record.args.device == "cuda",
        )
    record.content.setdefault("reading_rate", {})[str(stored)] = rate
    record.row(
        f"read {stored} px PNG at {pixels} px, {workers} workers",
        f"{rate:.0f} images/s ({rate / workers:.0f} a worker)",
        images_a_second=rate,
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
            f"{which}: {rate:.0f} images/s are read, {taken[0]:.0f} trained on",
            read=rate,
            trained=taken[0],
        )


def main() -> int:
    args = arguments(__doc__)
    record = Record("data", args)
    torch.manual_seed(args.seed)
    small = args.small
    sizes = ((64, 16, 0.2), (128, 8, 0.2)) if small else ((512, 1500, 3.0), (1024, 160, 2.0))
    reading = [
        (f"read {stored} px", partial(read, stored=stored, count=count, seconds=seconds))
        for stored, count, seconds in sizes
    ]
    # Files first: processes are forked before the device is used.
    return record.run([*reading, ("on the device", on_device), ("limit", limit)])


if __name__ == "__main__":
    sys.exit(main())
