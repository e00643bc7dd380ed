"""Time and memory of functions on a device."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

GIB = 2**30
SLEEP = 40_000_000  # cycles, some 20 ms

Function = Callable[[], Any]


def milliseconds(function: Function, device: str, *, ahead: bool = False) -> float:
    """Return the time of one call, by events of the device where it has some.

    With `ahead` the device sleeps first, so that all kernels of a short function are waiting when it starts, as they
    are in the middle of a training step.
    """
    if device != "cuda":
        started = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - started)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if ahead:
        torch.cuda._sleep(SLEEP)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def interleaved(functions: Sequence[Function], device: str, *, rounds: int, ahead: bool = False) -> list[float]:
    """Return the median time of each function in milliseconds; they take turns, so that a drift meets all alike."""
    for function in functions:
        for _ in range(1 if rounds == 1 else 3):  # warm up
            function()
    if device == "cuda":
        torch.cuda.synchronize()
    times = [[milliseconds(function, device, ahead=ahead) for function in functions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak_gib(function: Function, device: str) -> float | None:
    """Return the memory that one call needs beyond what is allocated before it; `None` on the CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / GIB


def allocated_gib(device: str) -> float:
    """Return the memory of all tensors on the device, 0 on the CPU."""
    return torch.cuda.memory_allocated() / GIB if device == "cuda" else 0.0


def free_memory(device: str) -> None:
    """Give the memory of tensors that are gone back to the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def autocast(device: str) -> Any:
    """Compute in bfloat16 on a GPU; the trial on a CPU stays in float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device == "cuda" else nullcontext()
