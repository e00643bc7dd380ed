"""One row of the comparison: two sides, a ratio of their times and of their memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from measuring import in_turns, peak_memory, ratio

Result = dict[str, Any]
Rows = Iterator[tuple[str, Result]]


def compared(
    sides: dict[str, Callable[[], object]],
    device: str,
    *,
    time: float,
    memory: float | None = None,
    faster: bool,
    held: dict[str, int] | None = None,
    **turns: Any,
) -> Result:
    """Time the sides `ours` and `theirs` and take their peak memory.

    Args:
        sides: What to run.
        device: Where.
        time: Ratio that must be reached: theirs over ours if `faster`, at most ours over theirs otherwise.
        memory: The same for peak memory.
        faster: Whether ours should be the faster one, or may cost a little more.
        held: Bytes that each side holds all the time, counted towards its peak.
        **turns: `rounds` and `warmup`.
    """
    times = in_turns(sides, device=device, **turns)
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    median, low, high = ratio(times, over, under)
    result: Result = {"faster": faster, "ratio": round(median, 4), "quartiles": [round(low, 4), round(high, 4)]}
    result |= {"must_reach": time, "seconds": {name: float(np.median(took)) for name, took in times.items()}}
    result["rounds"] = len(times["ours"])
    if memory is not None:
        peaks = {name: peak_memory(run, device) for name, run in sides.items()}
        peaks = {
            name: {kind: size + (held or {}).get(name, 0) for kind, size in of.items()} for name, of in peaks.items()
        }
        ratios = {kind: round(peaks[over][kind] / max(peaks[under][kind], 1), 4) for kind in peaks["ours"]}
        result |= {"memory_must_reach": memory, "peak_bytes": peaks, "memory_ratio": ratios}
    return result


def agree(given: object, expected: object, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Raise unless both sides computed the same."""
    torch.testing.assert_close(given, expected, rtol=rtol, atol=atol)


def gradients(run: Callable[[], Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the value and the gradients with respect to the inputs."""
    value = run()
    return value.detach(), *torch.autograd.grad(value, inputs)
