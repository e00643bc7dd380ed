"""Write a copy of NIH ChestX-ray14 in 8-bit grey and a smaller size, faster to train from.

    python examples/prepare_nih.py path/to/nih path/to/nih-512 --size 512
    python examples/train_nih.py --data path/to/nih-512 --image-size 512 --output runs/causal

`path/to/nih` holds the tables of the release and its images: unpacked, in `images/` or in `images_001/images` and so
on, or as the archives `images_001.tar.gz` and so on, which need not be unpacked. Where both are there, archives serve
for images that no folder has.

The copy has the layout of the release: `NIHChestXray14` reads it. Labels, lists and boxes are copied as they are:
boxes stay in pixels of 1024 x 1024. Tables come last, so that nothing trains on a copy that was interrupted. Run again
with the same arguments to go on: intact images are kept.

`report.json` in the copy says what was written, what was kept, which images or archives are damaged, which names the
tables list in vain, and which files no table lists (they are not copied; of archives, only those that had to be read).
The exit code is 1 if something is damaged or missing.
"""

import argparse
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import posixpath
import shutil
import signal
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from atomic import PARTIAL, replacing, write_json
from causalcxr.data import read_image
from causalcxr.data.nih_tables import read_nih_tables
from provenance import commit

IN_FLIGHT = 4  # images a worker: enough to keep it busy, few enough for the memory

# A copy without its lists cannot be read, so they come last.
TABLES = (
    "BBox_List_2017.csv",
    "Data_Entry_2017.csv",
    "Data_Entry_2017_v2020.csv",
    "test_list_NIH.txt",
    "test_list.txt",
    "train_val_list_NIH.txt",
    "train_val_list.txt",
)
ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)

Source = tuple[str, str | bytes]  # name, and path or content
Job = tuple[str, str | bytes, Path, int]


@dataclasses.dataclass
class Report:
    """What became of each image."""

    listed: int
    written: int = 0
    kept: int = 0
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    unlisted: list[str] = dataclasses.field(default_factory=list)


def write_grey(image: torch.Tensor, path: Path) -> None:
    """Write an image (1, H, W) in [0, 1] as an 8-bit grey PNG.

    Run lengths alone give smaller files of radiographs than Pillow's default, and faster ones to read.
    """
    grey = Image.fromarray(np.rint(image[0].numpy() * 255).astype(np.uint8))
    with replacing(path) as partial:
        grey.save(partial, format="PNG", compress_type=zlib.Z_RLE)


def copy_tables(release: Path, output: Path) -> None:
    for table in (release / name for name in TABLES):
        if table.is_file():
            with replacing(output / table.name) as partial:
                shutil.copyfile(table, partial)


def begin(release: Path, output: Path, size: int) -> Path:
    """Make the folder of the copy, or go on with it, and return that of its images."""
    here, there = output.resolve(), release.resolve()
    if here == there or (there in here.parents and here.relative_to(there).parts[0].startswith("images")):
        raise ValueError(f"{output} is part of the release itself; give another folder for the copy")
    options, options_file = {"size": size}, output / "prepare.json"
    output.mkdir(parents=True, exist_ok=True)
    if options_file.exists():
        then = json.loads(options_file.read_text())
        if then != options:
            raise ValueError(
                f"{output} was begun with --size {then['size']}, not {size}; give another folder or that size"
            )
    elif any(not path.name.endswith(PARTIAL) for path in output.iterdir()):
        raise ValueError(f"{output} holds files but no copy that was begun here (no prepare.json); give a new folder")
    write_json(options_file, options)
    images = output / "images"
    images.mkdir(exist_ok=True)
    for leftover in (*output.glob(f"*{PARTIAL}"), *images.glob(f"*{PARTIAL}")):
        leftover.unlink()
    return images


def find_sources(release: Path) -> tuple[list[Path], list[Path]]:
    """Return the image folders and the archives of the release."""
    folders = [folder for folder in (release / "images", *sorted(release.glob("images_*/images"))) if folder.is_dir()]
    archives = sorted((*release.glob("images_*.tar.gz"), *release.glob("images_*.tar")))
    if not folders and not archives:
        raise FileNotFoundError(
            f"no images in {str(release)!r}: looked for 'images', for 'images_001/images' and so on, "
            "and for 'images_001.tar.gz' and so on"
        )
    return folders, archives


def find_images(release: Path, wanted: dict[str, None], names: set[str], report: Report) -> Iterator[Source]:
    """Yield each wanted image once and take it off the list; note what no table lists."""
    folders, archives = find_sources(release)
    path_of: dict[str, str] = {}
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    path_of.setdefault(entry.name, entry.path)
    report.unlisted += sorted(path_of.keys() - names)
    for name in [name for name in wanted if name in path_of]:
        del wanted[name]
        yield name, path_of[name]
    for path in archives:
        if not wanted:
            break
        try:
            yield from read_archive(path, wanted, names, report)
        except ARCHIVE_ERRORS as error:
            report.bad[path.name] = f"cannot be read to its end: {error}"


def read_archive(path: Path, wanted: dict[str, None], names: set[str], report: Report) -> Iterator[Source]:
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = posixpath.basename(member.name)  # whatever folders it names: nothing is written outside the copy
            if name in wanted:
                content = archive.extractfile(member).read()
                del wanted[name]
                yield name, content
            elif name not in names:
                report.unlisted.append(name)


def convert(name: str, source: str | bytes, folder: Path, size: int) -> tuple[str, str | None]:
    """Write one image; return its name and what is wrong with it, if anything."""
    try:
        image = read_image(source if isinstance(source, str) else io.BytesIO(source), size=size)
    except (OSError, ValueError) as error:
        return name, str(error)
    write_grey(image, folder / name)  # a full disk ends the run: it is no fault of the image
    return name, None


def process_context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["causalcxr.data"])  # loaded once for all: some 20 MB a worker instead of 400
    return context


def begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the first process; workers finish what they have
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    multiprocessing.parent_process().join()  # killed, it could not end its workers
    os._exit(1)


def convert_all(jobs: Iterable[Job], workers: int) -> Iterator[tuple[str, str | None]]:
    """Convert with several processes, few images ahead of them."""
    if workers == 1:
        yield from itertools.starmap(convert, jobs)
        return
    with ProcessPoolExecutor(workers, process_context(), begin_worker) as pool:
        pending: set[Any] = set()
        for job in jobs:
            pending.add(pool.submit(convert, *job))
            if len(pending) >= IN_FLIGHT * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(pending))


def is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def copy_images(release: Path, folder: Path, names: list[str], size: int, workers: int) -> Report:
    report = Report(listed=len(names), bad={name: "not the name of a file" for name in names if not is_plain(name)})
    there = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}  # written whole or not at all
    report.kept = len(there.intersection(names))
    wanted = {name: None for name in names if name not in there and name not in report.bad}
    images = find_images(release, wanted, set(names), report)
    jobs = ((name, source, folder, size) for name, source in images)
    with tqdm(total=len(wanted), unit="image", smoothing=0, dynamic_ncols=True) as bar:
        for name, problem in convert_all(jobs, workers):
            if problem is None:
                report.written += 1
            else:
                report.bad[name] = problem
            bar.update()
    report.missing = list(wanted)
    return report


def few(title: str, items: list[str]) -> str:
    return f"{len(items)} {title}: {'; '.join(items[:5])}{'; ...' if len(items) > 5 else ''}\n" if items else ""


def summary(figures: dict[str, Any]) -> str:
    return (
        f"{figures['listed']} images listed: {figures['written']} written, {figures['kept']} kept\n"
        + few("bad", [f"{name} ({reason})" for name, reason in figures["bad"].items()])
        + few("missing", figures["missing"])
        + few("in no table, not copied", figures["unlisted"])
        + f"{figures['seconds']} s, {figures['images_per_second']} images/s, "
        + f"{figures['images_per_second_per_worker']} per worker"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of the NIH release")
    parser.add_argument("output", type=Path, help="folder of the copy")
    parser.add_argument("--size", type=int, default=512, help="height and width; default: 512")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: one a core")
    args = parser.parse_args(argv)
    if args.size < 1 or args.workers < 1:
        raise ValueError(f"--size and --workers must be at least 1, got {args.size} and {args.workers}")
    names = read_nih_tables(args.release).names
    find_sources(args.release)  # an error before anything is written
    folder = begin(args.release, args.output, args.size)
    started = time.perf_counter()
    report = copy_images(args.release, folder, names, args.size, args.workers)
    copy_tables(args.release, args.output)
    seconds = time.perf_counter() - started
    figures = dataclasses.asdict(report) | {
        "size": args.size,
        "workers": args.workers,
        "seconds": round(seconds, 1),
        "images_per_second": round(report.written / seconds, 1),
        "images_per_second_per_worker": round(report.written / seconds / args.workers, 1),
        "commit": commit(),
    }
    write_json(args.output / "report.json", figures)
    print(summary(figures))
    return 1 if report.bad or report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
