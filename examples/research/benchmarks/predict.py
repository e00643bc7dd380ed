"""Compare `causalcxr.predict`, whose threads read and score batches, with scoring one film at a time.

    python -m benchmarks.predict --json benchmarks/results/predict_cpu.json

The films are generated, 1024 px, as PNG and as JPEG, and lie in a temporary folder. One at a time is
`model(model.preprocess(path))`. Reading alone is `model.preprocess(path)` in as many threads as `predict` has. The
sides run in turns in one process. About a minute on two cores. On a GPU:

    python -m benchmarks.predict --device cuda --workers 16 --batch-size 32 --films 256 \
        --json benchmarks/results/predict_gpu.json
"""

import argparse
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR

from .measuring import Results, in_turns, markdown_table, ratio

DIFFERENT = 4
FORMATS = {"PNG": {}, "JPEG": {"quality": 92}}


@cache
def painted(side: int) -> list[Image.Image]:
    dataset = SyntheticCXR(DIFFERENT, image_size=side, seed=0)
    return [Image.fromarray((255 * dataset[i][0][0].numpy()).astype(np.uint8)) for i in range(DIFFERENT)]


def write_films(folder: Path, format: str, number: int, side: int) -> list[Path]:
    """Write so many films, of which only some differ, since one takes a second to paint."""
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


def measure(format: str, args: argparse.Namespace) -> dict[str, Any]:
    model = causalcxr.create_model(args.model, pretrained=not args.random).eval().to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(Path(folder), format, args.films, args.side)
        sides = {
            "batched": partial(batched, model, paths, args.batch_size, args.workers),
            "one": partial(one_at_a_time, model, paths, args.device),
            "reading": partial(reading, model, paths, args.workers),
        }
        difference = (torch.stack(sides["batched"]()) - torch.stack(sides["one"]())).abs().max()
        times = in_turns(sides, args.rounds)
    row = ratio(times, "one", "batched")
    return row | {
        "films_per_second": {name: round(args.films / seconds, 2) for name, seconds in row["seconds"].items()},
        "difference": float(difference),
        "films": args.films,
        "side": args.side,
        "model": args.model,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "batch_size": args.batch_size,
        "workers": args.workers,
        "rounds": args.rounds,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    body = []
    for format, row in rows.items():
        low, high = row["quartiles"]
        speeds = [f"{row['films_per_second'][name]:.0f}" for name in ("reading", "one", "batched")]
        body.append([format, *speeds, f"**{row['ratio']:.3g}** ({low:.3g}, {high:.3g})"])
    header = ["films of 1024 px", "reading alone, films/s", "one at a time, films/s", "`causalcxr.predict`, films/s"]
    return markdown_table([*header, "times faster (quartiles)"], body)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="causal_efficientnet_lite0")
    parser.add_argument("--random", action="store_true", help="random weights, for models without published ones")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    args = parser.parse_args(argv)
    results = Results(args.json)
    for format in FORMATS:
        results.measure(format, partial(measure, format, args))
    results.finish(table)


if __name__ == "__main__":
    main()
