"""Measure a causal model against its backbone, ACmix against its unfold form, and reading, on a GPU.

    python -m benchmarks.gpu --json runs/gpu/speed.json

Some minutes on an H100, and 30 GB of its memory. Finished rows are kept in the JSON file: a run that was stopped goes
on where it was. `--small --device cpu` is a trial without a GPU and without meaning as a measurement.
"""

import argparse
import bisect
import gc
import os
import runpy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, RandomSampler

from causalcxr.layers import ACmix
from records import markdown_table

from .compare import SMALL, Scale, acmix, autocast, evaluation, forward, training, training_step
from .measuring import Row, in_turns, measure, ratio
from .predict import write_films

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
BANK = 1024
CARD = 23 * 2**30  # bytes of the 24 GiB of the paper's card; the rest is for the driver
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def attention(device: str, small: bool) -> Row:
    """Compare ACmix at the shapes of `causal_resnet101` at 512 px."""
    batch, dim, side = (2, 32, 12) if small else (32, 256, 32)
    layer = ACmix(dim, dim, num_heads=8).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, dim, side, side, device=device).contiguous(memory_format=torch.channels_last)
    row = acmix(layer, x, rounds=1 if small else 20)
    return row | {"shown": f"{times(row)}, {row['ratio']:.1f} times faster; {memory(row)}"}


def whole(compare: Callable[..., Row], scale: Scale, *, rounds: int) -> Row:
    """Compare a causal model with its backbone."""
    row = compare(scale, rounds=rounds)
    ours, theirs = (scale.batch / row["seconds"][side] for side in ("ours", "theirs"))
    shown = f"{ours:.0f} images/s against {theirs:.0f}, time {row['ratio']:.3f} times; {memory(row)}"
    return row | {"images_per_second": {"ours": ours, "theirs": theirs}, "shown": shown}


def compiled(scale: Scale, *, rounds: int) -> Row:
    models = {name: objective.model.eval() for name, objective in scale.objectives().items()}
    backend = "inductor" if scale.device == "cuda" else "eager"
    models = {name: torch.compile(model, backend=backend) for name, model in models.items()}
    return forward(models, scale.images(), rounds=rounds)


def times(row: Row) -> str:
    ours, theirs = (1e3 * row["seconds"][side] for side in ("ours", "theirs"))
    return f"{ours:.2f} ms against {theirs:.2f} ms"


def memory(row: Row) -> str:
    ours, theirs = (row["peak_bytes"][side] / 2**30 for side in ("ours", "theirs"))
    return f"{ours:.3g} GiB against {theirs:.3g} GiB, {ours / theirs:.3f} times"


def head(scale: Scale, *, rounds: int) -> Row:
    """Time forward and backward of the head alone, and find the kernels in which it spends its time."""
    objectives, images = scale.objectives(), scale.images()
    model = objectives["ours"].model
    with torch.no_grad(), autocast(scale.device):
        features = objectives["theirs"].model.forward_features(images)
    features = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    borrowed = torch.randn(BANK, model.num_classes, model.head_hidden_size, device=scale.device)

    def alone() -> None:
        with autocast(scale.device):
            output = model.head(features, confounders=borrowed)
        predictions = output.logits, output.confounder_logits, output.intervened
        sum(tensor.float().square().mean() for tensor in predictions).backward()

    step = training_step(objectives["theirs"], images, scale.targets())
    row = ratio(in_turns({"ours": alone, "theirs": step}, rounds), "ours", "theirs")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        alone()
    order = f"self_{scale.device}_time_total"
    kernels = profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=100)
    return row | {"kernels": kernels.splitlines(), "shown": f"{times(row)} of the backbone's step, {row['ratio']:.1%}"}


def largest_batch(scale: Scale, sizes: range, *, checkpointing: bool) -> Row:
    """Find the largest batch of training in the memory of the paper's card."""
    objective = scale.objectives()["ours"]
    objective.model.set_grad_checkpointing(checkpointing)

    def train(batch: int) -> None:
        of_batch = scale._replace(batch=batch)
        step = training_step(objective, of_batch.images(), of_batch.targets())
        for _ in range(2):  # in the second one the optimizer has its moments
            step()

    def too_large(batch: int) -> bool:
        try:
            train(batch)
        except RuntimeError as error:  # cuDNN says in other words that it has no memory to work in
            if not any(words in str(error) for words in ("out of memory", "CUDNN_STATUS", "unable to find an engine")):
                raise
            return True
        finally:
            objective.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
        return False

    if scale.device == "cuda":
        share = CARD / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.memory.set_per_process_memory_fraction(min(share, 1.0))
    fitting = bisect.bisect_left(sizes, True, key=too_large)
    if scale.device == "cuda":
        torch.cuda.memory.set_per_process_memory_fraction(1.0)
    batch = sizes[fitting - 1] if fitting else 0
    return {"batch": batch, "shown": str(batch)}


def reading(pixels: int, workers: int, *, films: int, batch: int, least: float) -> Row:
    """Count the images a second that the loader of `train.py` gives, once it runs."""
    with tempfile.TemporaryDirectory() as folder:
        write_release(Path(folder), films, pixels)
        read, augmented = (
            images_a_second(folder, pixels, batch, workers, least, augment=augment) for augment in (False, True)
        )
    each = f"{augmented / workers:.0f} a worker"
    shown = f"{read:.0f} images/s read, {augmented:.0f} images/s read and augmented ({each})"
    return {"images_per_second": {"read": read, "augmented": augmented}, "workers": workers, "shown": shown}


def write_release(folder: Path, films: int, pixels: int) -> None:
    """Write films and tables in the layout of the NIH release, all in its training list."""
    (folder / "images").mkdir()
    names = [path.name for path in write_films(folder / "images", "PNG", films, pixels)]
    rows = [f"{name},No Finding,0,{i},50,F,PA,{pixels},{pixels},0.143,0.143" for i, name in enumerate(names)]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(names) + "\n")
    (folder / "test_list.txt").write_text("")


def images_a_second(folder: str, pixels: int, batch: int, workers: int, least: float, *, augment: bool) -> float:
    options = {"data": folder, "image_size": pixels, "val_fraction": 0.1, "no_augment": not augment}
    dataset, _ = runpy.run_path(str(TRAIN))["build_data"](argparse.Namespace(**options))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)  # no end of an epoch, which would stall
    batches: Any = iter(DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers))
    for _ in range(2 * workers):  # what was prepared while the workers started
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < least or count == 0:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - started)


def rows(device: str, small: bool) -> dict[str, Callable[[], Row]]:
    """Return what is measured, the most important first; `small` shrinks all of it."""
    scale = Scale(**SMALL if small else {}, device=device, bank=BANK)
    large, middle, few = (scale._replace(batch=2 if small else batch) for batch in (64, 32, 16))
    rounds = 1 if small else 12
    workers = 2 if small else min(16, len(os.sched_getaffinity(0)))
    films = {"films": 16, "batch": 2, "least": 0.2} if small else {"films": 1500, "batch": 32, "least": 3.0}
    sizes = range(4, 9 if small else 193, 4)
    name, pixels = scale.causal, scale.pixels
    return {
        "ACmix (32, 256, 32, 32) against unfolding": partial(attention, device, small),
        f"{name} training, batch {large.batch}": partial(whole, training, large, rounds=rounds),
        f"{name} evaluation, batch {large.batch}": partial(whole, evaluation, large, rounds=rounds),
        f"{name}, head alone, forward and backward, batch {middle.batch}": partial(head, middle, rounds=rounds),
        f"{name}, largest batch in 23 GiB, with checkpointing": partial(
            largest_batch, scale, sizes, checkpointing=True
        ),
        f"{name}, largest batch in 23 GiB, without checkpointing": partial(
            largest_batch, scale, sizes, checkpointing=False
        ),
        f"{pixels} px PNG at {pixels} px, {workers} workers": partial(reading, pixels, workers, **films),
        f"{name} evaluation, compiled, batch {few.batch}": partial(whole, compiled, few, rounds=rounds),
    }


def table(found: dict[str, Row]) -> str:
    made = next(iter(found.values()))
    about = f"{made['versions']['device']}, torch {made['versions']['torch']}, commit {made['commit'][:12]}."
    return f"{about}\n\n" + markdown_table(
        ["what", "measured"], [[title, row["shown"]] for title, row in found.items()]
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a trial: tiny models, one round")
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    args = parser.parse_args(argv)
    measure(rows(args.device, args.small), table, args.json, args.device)


if __name__ == "__main__":
    main()
