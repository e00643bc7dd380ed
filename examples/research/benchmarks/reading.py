"""Count the images a second that the loader of `train.py` reads and augments.

    python -m benchmarks.reading --workers 16 --json benchmarks/results/reading_gpu.json

The films are generated, of the size of the images, and lie in a temporary folder in the layout of the NIH release.
"""

import argparse
import runpy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, RandomSampler

from records import markdown_table

from .measuring import Row, measure
from .predict import write_films

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def write_release(folder: Path, films: int, pixels: int) -> None:
    """Write films and tables, all in the training list."""
    (folder / "images").mkdir()
    names = [path.name for path in write_films(folder / "images", "PNG", films, pixels)]
    rows = [f"{name},No Finding,0,{i},50,F,PA,{pixels},{pixels},0.143,0.143" for i, name in enumerate(names)]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(names) + "\n")
    (folder / "test_list.txt").write_text("")


def images_a_second(folder: str, args: argparse.Namespace, *, augment: bool) -> float:
    """Return what the loader yields once it runs."""
    options = {"data": folder, "image_size": args.pixels, "val_fraction": 0.1, "no_augment": not augment}
    dataset, _ = runpy.run_path(str(TRAIN))["build_data"](argparse.Namespace(**options))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # no end of an epoch, which would stall
    batches: Any = iter(DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.workers))
    for _ in range(2 * args.workers):  # what was prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < args.seconds or count == 0:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - started)


def reading(args: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        write_release(Path(folder), args.films, args.pixels)
        read, augmented = (images_a_second(folder, args, augment=augment) for augment in (False, True))
    return {"read": round(read, 1), "augmented": round(augmented, 1), "workers": args.workers}


def table(found: dict[str, Row]) -> str:
    body = [[title, f"{row['read']:.0f}", f"{row['augmented']:.0f}"] for title, row in found.items()]
    return markdown_table(["films", "read, images/s", "read and augmented, images/s"], body)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=512, help="side of films and images")
    parser.add_argument("--films", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="for which it is counted")
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    args = parser.parse_args(argv)
    measure({f"{args.pixels} px PNG, {args.workers} workers": partial(reading, args)}, table, args.json)


if __name__ == "__main__":
    main()
