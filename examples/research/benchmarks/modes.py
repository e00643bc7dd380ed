"""Measure the effect of precision, memory format, compilation and checkpointing on a training step.

    python -m benchmarks.modes --json benchmarks/results/modes_cpu.json

Each mode changes one thing about the step of a model in float32 and `channels_last`. Time and memory are ratios to that
step. Errors are the relative differences to float32 of the first loss, and of its gradients as one vector. A step is
forward and backward, without an optimizer. Takes about three minutes on two cores, and needs a C++ compiler for
`torch.compile`. `--small` is a test run: a tiny model, one round.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from causalcxr import CausalObjective, create_model
from records import markdown_table

from .measuring import Row, command, in_turns, peak_memory, ratio

MODES: dict[str, dict[str, Any]] = {
    "contiguous": {"memory_format": torch.contiguous_format},
    "bfloat16": {"dtype": torch.bfloat16},
    "compiled": {"compiled": True},
    "checkpointed": {"checkpointed": True},
}

Step = Callable[[], tuple[Tensor, list[Tensor]]]


def step_in(
    objective: CausalObjective,
    images: Tensor,
    targets: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    compiled: bool = False,
    checkpointed: bool = False,
) -> Step:
    """Return a step in one mode, on a copy of the objective. It returns the loss and the gradients."""
    objective = copy.deepcopy(objective).to(memory_format=memory_format)
    objective.model.set_grad_checkpointing(checkpointed)
    images = images.contiguous(memory_format=memory_format)
    run = torch.compile(objective, fullgraph=True) if compiled else objective

    def step() -> tuple[Tensor, list[Tensor]]:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = run(images, targets)["loss"]
        loss.backward()
        gradients = [p.grad for p in objective.parameters() if p.grad is not None]
        objective.zero_grad()
        return loss.detach(), gradients

    return step


def compared(name: str, small: bool) -> Row:
    """Compare a mode with float32 and `channels_last`."""
    model, pixels, batch, rounds = ("causal_test_resnet", 128, 2, 1) if small else ("causal_resnet50", 256, 4, 5)
    objective = CausalObjective(create_model(model))
    given = torch.randn(batch, 3, pixels, pixels), (torch.rand(batch, 14) < 0.1).float()
    base, mode = (step_in(objective, *given, **settings) for settings in ({}, MODES[name]))
    start = time.perf_counter()
    loss, gradients = mode()
    first = time.perf_counter() - start
    expected_loss, expected = base()
    row = ratio(in_turns({"base": base, "mode": mode}, rounds), "mode", "base")
    return row | {
        "memory_ratio": round(peak_memory(mode) / peak_memory(base), 4),
        "first_step_seconds": round(first, 2),
        "loss_error": float((loss - expected_loss).abs() / expected_loss),
        "gradients_error": distance(gradients, expected),
    }


def distance(given: list[Tensor], expected: list[Tensor]) -> float:
    """Return the relative distance of two vectors, passed in parts."""
    given, expected = (torch.cat([part.flatten().double() for part in vector]) for vector in (given, expected))
    return float((given - expected).norm() / expected.norm())


def rows(small: bool) -> dict[str, Callable[[], Row]]:
    return {name: partial(compared, name, small) for name in MODES}


def table(found: dict[str, Row]) -> str:
    body = []
    for name, row in found.items():
        low, high = row["quartiles"]
        time, factor = f"{row['seconds']['mode'] * 1e3:,.0f} ms", f"**{row['ratio']:.3g}** ({low:.3g}, {high:.3g})"
        errors = [f"{row[key]:.1e}" for key in ("loss_error", "gradients_error")]
        body.append([name, time, factor, f"{row['memory_ratio']:.3g}", f"{row['first_step_seconds']:.3g} s", *errors])
    header = ["mode", "step", "ratio to float32 (quartiles)", "peak memory", "first step"]
    return markdown_table([*header, "error of the loss", "of gradients"], body)


def main(argv: list[str] | None = None) -> None:
    command(__doc__, rows, table, argv, small=False)


if __name__ == "__main__":
    main()
