"""Time and memory of functions on a device."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30
SLEEP = 40_000_000  # cycles, some 20 ms

Function = Callable[[], Any]


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


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


def interleaved(
    functions: Sequence[Function], device: str, *, rounds: int, warmup: int = 3, ahead: bool = False
) -> list[float]:
    """Return the median time of each function in milliseconds; they take turns, so that a drift meets all alike."""
    for function in functions:
        for _ in range(warmup):
            function()
    synchronize(device)
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
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def flops(function: Function) -> int:
    """Return the operations of one call in products and convolutions, a product and a sum as two; 0 if unknown."""
    try:
        with FlopCounterMode(display=False) as counter:
            function()
    except Exception as error:  # a formula that does not take an operator's arguments: no reason to lose the times
        print(f"operations are not counted: {type(error).__name__}: {error}", flush=True)
        return 0
    return counter.get_total_flops()


def matrix_rate(device: str, *, size: int, rounds: int = 10) -> float:
    """Return operations a second of a product of bfloat16 matrices of random numbers."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    (time_,) = interleaved([lambda: a @ b], device, rounds=rounds)
    return 2 * size**3 / (1e-3 * time_)


def autocast(device: str) -> Any:
    """Compute in bfloat16 on a GPU; the trial on a CPU stays in float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device == "cuda" else nullcontext()


def ratio(a: float | None, b: float | None) -> float | None:
    """Return a / b where both are known."""
    return None if a is None or not b else a / b


def times(value: float | None) -> str:
    """Return a ratio in words."""
    return "unknown" if value is None else f"{value:.3f} x"


def relative_error(given: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest value."""
    given, expected = given.detach().double(), expected.detach().double()
    return float((given - expected).abs().max() / expected.abs().max())
