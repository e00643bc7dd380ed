"""Compare `causalcxr.predict`, which reads in threads and scores batches, with scoring one film at a time.

    python -m benchmarks.predict --json benchmarks/results/predict_cpu.json

The films are generated in a temporary folder, 1024 px, as PNG and as JPEG. One at a time is
`model(model.preprocess(path))`. Reading alone is `model.preprocess(path)` in as many threads as `predict` uses. The
sides run alternately in one process, for about a minute on two cores. On a GPU:

    python -m benchmarks.predict --device cuda --workers 16 --batch-size 128 --films 768 --rounds 2 \
        --json benchmarks/results/predict_gpu.json
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR
from records import markdown_table

from .measuring import Row, command, in_turns, ratio

MODEL = "causal_efficientnet_lite0"
DIFFERENT = 4
FORMATS = {"PNG": {}, "JPEG": {"quality": 92}}


@cache
def painted(side: int) -> list[Image.Image]:
    dataset = SyntheticCXR(DIFFERENT, image_size=side, seed=0)
    return [Image.fromarray((255 * dataset[i][0][0].numpy()).astype(np.uint8)) for i in range(DIFFERENT)]


def write_films(folder: Path, format: str, number: int, side: int) -> list[Path]:
    """Write `number` films. Only a few differ, since painting one takes a second."""
    paths = [folder / f"{i:03}.{format.lower()}" for i in range(number)]
    for film, path in zip(painted(side), paths, strict=False):
        film.save(path, **FORMATS[format])
    for i, path in enumerate(paths[DIFFERENT:]):
        shutil.copyfile(paths[i % DIFFERENT], path)
    return paths


@torch.inference_mode()
def one_at_a_time(model: Any, paths: list[Path], device: str) -> list[torch.Tensor]:
    return [model(model.preprocess(path).to(device))[0].cpu() for path in paths]


def reading(model: Any, paths: list[Path], workers: int) -> list[torch.Tensor]:
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(model.preprocess, paths))


def batched(model: Any, paths: list[Path], batch_size: int, workers: int) -> list[torch.Tensor]:
    return [logits for _, logits, _ in causalcxr.predict(model, paths, batch_size=batch_size, workers=workers)]


def compared(format: str, options: dict[str, Any]) -> Row:
    """Compare the sides on films of one format, with the command-line `options`."""
    batch_size, workers, device = (options[name] for name in ("batch_size", "workers", "device"))
    model = causalcxr.create_model(MODEL, pretrained=True).eval().to(device)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(Path(folder), format, options["films"], options["side"])
        sides = {
            "batched": partial(batched, model, paths, batch_size, workers),
            "one": partial(one_at_a_time, model, paths, device),
            "reading": partial(reading, model, paths, workers),
        }
        difference = (torch.stack(sides["batched"]()) - torch.stack(sides["one"]())).abs().max()
        row = ratio(in_turns(sides, options["rounds"]), "one", "batched")
    speeds = {name: round(options["films"] / seconds, 2) for name, seconds in row["seconds"].items()}
    return row | {"films_per_second": speeds, "difference": float(difference), "model": MODEL, **options}


def rows(**options: Any) -> dict[str, Callable[[], Row]]:
    return {format: partial(compared, format, options) for format in FORMATS}


def table(found: dict[str, Row]) -> str:
    body = []
    for format, row in found.items():
        low, high = row["quartiles"]
        speeds = [f"{row['films_per_second'][name]:.0f}" for name in ("reading", "one", "batched")]
        body.append([format, *speeds, f"**{row['ratio']:.3g}** ({low:.3g}, {high:.3g})"])
    [side] = {row["side"] for row in found.values()}
    header = [f"films of {side} px", "reading alone, films/s", "one at a time, films/s", "`causalcxr.predict`, films/s"]
    return markdown_table([*header, "times faster (quartiles)"], body)


def main(argv: list[str] | None = None) -> None:
    command(__doc__, rows, table, argv, device="cpu", films=64, side=1024, batch_size=8, workers=2, rounds=7)


if __name__ == "__main__":
    main()
