"""Measure images a second, memory and the share of an accelerator's matrix rate that training reaches.

    python examples/benchmarks/throughput.py --json docs/results/benchmarks/throughput_cuda.json

Training steps with AdamW in bfloat16 and `channels_last`, with and without `torch.compile`, of causal models and of
their plain backbones. The matrix rate is measured too, by products of large bfloat16 matrices, and the operations of a
step are counted by PyTorch, so that the share is of what the device can do rather than of what is printed on it.
Operations on masked pairs of the window attention are counted as well.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from causalcxr import CausalObjective, create_model
from measuring import environment, in_turns, once, peak_memory, read_results, say, write_results

TRAINING_IMAGES = 86_524  # the official training and validation list of NIH ChestX-ray14


def matrix_rate(device: str, side: int) -> float:
    """Return operations a second of a product of bfloat16 matrices, two for each multiply-add."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = in_turns({"product": lambda: a @ b}, rounds=20, warmup=5, device=device)["product"]
    return 2 * side**3 / statistics.median(times)


def training_step(name: str, device: str, *, size: int, batch: int, compiled: bool) -> Callable[[], None]:
    """Return a training step of a model."""
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    targets = (torch.rand(batch, 14, device=device) < 0.1).float()
    if name.startswith("causal"):
        model = create_model(name).to(device, memory_format=torch.channels_last)
        objective: Callable[..., Any] = CausalObjective(model)
    else:
        model = timm.create_model(name, num_classes=14, output_stride=16).to(device, memory_format=torch.channels_last)

        def objective(images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": F.binary_cross_entropy_with_logits(model(images), targets)}

    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    run = torch.compile(objective, fullgraph=True) if compiled else objective

    def step() -> None:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            loss = run(images, targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(name: str, device: str, rate: float, *, size: int, batch: int, compiled: bool) -> dict[str, Any]:
    """Return what training a model costs."""
    counter = FlopCounterMode(display=False)
    with counter:
        training_step(name, device, size=size, batch=batch, compiled=False)()
    step = training_step(name, device, size=size, batch=batch, compiled=compiled)
    first = once(step, device)
    seconds = statistics.median(in_turns({"step": step}, rounds=20, warmup=5, device=device)["step"])
    images = batch / seconds
    return {
        "images_per_second": round(images, 2),
        "step_seconds": seconds,
        "first_step_seconds": round(first, 2),
        "peak_bytes": peak_memory(step, device)["tensors"],
        "operations_per_image": counter.get_total_flops() / batch,
        "share_of_matrix_rate": round(counter.get_total_flops() / seconds / rate, 4),
        "hours_per_epoch": round(TRAINING_IMAGES / images / 3600, 3),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| model | compiled | images a second | peak memory | share of the matrix rate | hours an epoch of 86,524 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row['model']}` | {'yes' if row['compiled'] else 'no'} | {row['images_per_second']:,.4g} "
        f"| {row['peak_bytes'] / 2**30:.3g} GiB | {row['share_of_matrix_rate']:.1%} | {row['hours_per_epoch']:.3g} |"
        for row in results.values()
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["causal_resnet50", "resnet50", "causal_resnet101", "resnet101"]
    parser.add_argument("--models", nargs="+", default=names)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices that measure the rate")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled steps out")
    parser.add_argument("--json", type=Path, help="keep the results there; a run that was stopped goes on")
    args = parser.parse_args(argv)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"there is no device {args.device!r} here; these figures are for an accelerator")
    results = read_results(args.json)
    for name in args.models:
        for compiled in (False,) if args.no_compile else (False, True):
            key = f"{name}, {'compiled' if compiled else 'eager'}"
            if key in results:
                continue
            say(f"{key} ...")
            torch.manual_seed(0)
            rate = matrix_rate(args.device, args.matrix)
            config = {"model": name, "compiled": compiled, "size": args.size, "batch": args.batch, "seed": 0}
            row = measure(name, args.device, rate, size=args.size, batch=args.batch, compiled=compiled)
            results[key] = {**config, **row, "matrix_rate": rate, "environment": environment(args.device)}
            write_results(args.json, args.device, results)
    print(table(results))


if __name__ == "__main__":
    main()
