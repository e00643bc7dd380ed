"""Measure what precision, memory format, compilation and checkpointing do to a training step, and how far they agree.

    python examples/benchmarks/modes.py --json docs/results/benchmarks/modes_cpu.json

Each mode is the step of one model in float32 and `channels_last` with one thing changed. Time and memory are given as
ratios to that step, over rounds in turns; the errors are those of the first loss and, as a distance of vectors, of
all its gradients, relative to float32; float16 has no loss scaling here. A step is forward and backward, without an
optimizer. Needs a C++ compiler for `torch.compile` on a CPU, and about ten minutes on two cores.
"""

import argparse
import contextlib
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcxr import CausalObjective, create_model
from measuring import environment, in_turns, peak_memory, ratio, read_results, say, write_results

BASE: dict[str, Any] = {"dtype": None, "memory_format": torch.channels_last, "compile": False, "checkpoint": False}
MODES: dict[str, dict[str, Any]] = {
    "contiguous": {"memory_format": torch.contiguous_format},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "compiled": {"compile": True},
    "compiled, bfloat16": {"compile": True, "dtype": torch.bfloat16},
    "checkpointed": {"checkpoint": True},
}


class Mode:
    """A training step in one mode, on a copy of the same model and the same images."""

    def __init__(self, objective: CausalObjective, images: Tensor, targets: Tensor, mode: dict[str, Any]) -> None:
        settings = BASE | mode
        self.objective = copy.deepcopy(objective).to(memory_format=settings["memory_format"])
        self.objective.model.set_grad_checkpointing(settings["checkpoint"])
        self.images = images.contiguous(memory_format=settings["memory_format"])
        self.targets, self.dtype = targets, settings["dtype"]
        self.run: Callable[..., dict[str, Tensor]] = self.objective
        if settings["compile"]:
            self.run = torch.compile(self.objective, fullgraph=True)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the mode's precision."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.images.device.type, dtype=self.dtype)

    def step(self) -> None:
        """Take the gradients and drop them."""
        self.loss_and_gradients()

    def loss_and_gradients(self) -> tuple[Tensor, list[Tensor]]:
        """Return the loss of a step and its gradients."""
        with self.autocast():
            loss = self.run(self.images, self.targets)["loss"]
        loss.backward()
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        self.objective.zero_grad()
        return loss.detach(), gradients


def measure(name: str, base: Mode, mode: Mode, device: str, rounds: int) -> dict[str, Any]:
    """Compare a mode with the base."""
    start = time.perf_counter()
    loss, gradients = mode.loss_and_gradients()
    first = time.perf_counter() - start
    expected_loss, expected = base.loss_and_gradients()
    times = in_turns({"base": base.step, "mode": mode.step}, rounds=rounds, device=device)
    median, low, high = ratio(times, "mode", "base")
    peaks = {side: peak_memory(run.step, device)["tensors"] for side, run in (("base", base), ("mode", mode))}
    return {
        "mode": name,
        "seconds": {side: float(np.median(took)) for side, took in times.items()},
        "ratio": round(median, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "peak_bytes": peaks,
        "memory_ratio": round(peaks["mode"] / peaks["base"], 4),
        "first_step_seconds": round(first, 2),
        "loss_error": float((loss - expected_loss).abs() / expected_loss),
        "gradients_error": distance(gradients, expected),
    }


def distance(given: list[Tensor], expected: list[Tensor]) -> float:
    """Return the relative distance of two vectors given in parts."""
    given, expected = (torch.cat([part.flatten().double() for part in vector]) for vector in (given, expected))
    return float((given - expected).norm() / expected.norm())


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| mode | step | ratio to float32 (quartiles) | peak memory | first step | error of the loss | of gradients |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results.values():
        low, high = row["quartiles"]
        lines.append(
            f"| {row['mode']} | {row['seconds']['mode'] * 1e3:,.0f} ms "
            f"| **{row['ratio']:.3g}** ({low:.3g}, {high:.3g}) "
            f"| {row['memory_ratio']:.3g} | {row['first_step_seconds']:.3g} s "
            f"| {row['loss_error']:.1e} | {row['gradients_error']:.1e} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="causal_resnet50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keep the results there; a run that was stopped goes on")
    args = parser.parse_args(argv)
    results = read_results(args.json)
    for name in args.modes:
        if name in results:
            continue
        say(f"{name} ...")
        torch.manual_seed(0)
        objective = CausalObjective(create_model(args.model)).to(args.device)
        images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
        targets = (torch.rand(args.batch, 14, device=args.device) < 0.1).float()
        base, mode = (Mode(objective, images, targets, settings) for settings in ({}, MODES[name]))
        config = {"model": args.model, "size": args.size, "batch": args.batch, "seed": 0}
        row = measure(name, base, mode, args.device, args.rounds)
        results[name] = {**row, **config, "environment": environment(args.device)}
        write_results(args.json, args.device, results)
    print(table(results))


if __name__ == "__main__":
    main()
