"""Time and peak memory of several ways to do the same thing, taken in turns in one process."""

import ctypes
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the examples are scripts, not a package

from provenance import commit

Side = Callable[[], object]


class Ratio(NamedTuple):
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float


def in_turns(sides: dict[str, Side], *, rounds: int, warmup: int = 1, device: str = "cpu") -> dict[str, list[float]]:
    """Return the seconds of each round for each side.

    A round runs every side once, in the order of the one before reversed, so that neither drift nor who comes first
    favours a side. `warmup` rounds before are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(-warmup, rounds):
        for name in order:
            took = once(sides[name], device)
            if number >= 0:
                times[name].append(took)
        order.reverse()
    return times


def once(run: Side, device: str = "cpu") -> float:
    """Return the seconds that one run takes."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until an accelerator has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def ratio(times: dict[str, list[float]], over: str, under: str) -> Ratio:
    """Return the ratio of two sides, round by round."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Ratio(statistics.median(ratios), low, high)


def peak_memory(run: Side, device: str = "cpu") -> dict[str, int]:
    """Return the bytes that a run takes at its peak beyond those held before.

    `tensors` is what PyTorch allocates: the same at every run. `resident`, on Linux without an accelerator, is the
    growth of the process in memory, with the work space of libraries and what the allocator keeps; the median of three.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return {"tensors": torch.cuda.max_memory_allocated(device) - before}
    peaks = {"tensors": _peak_of_tensors(run)}
    if Path("/proc/self/clear_refs").exists():
        peaks["resident"] = int(statistics.median(_resident_growth(run) for _ in range(3)))
    return peaks


def _peak_of_tensors(run: Side) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def _resident_growth(run: Side) -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives freed memory back, else it would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew at what is held now
    before = _resident("VmRSS")
    run()
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def held_by(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Return the bytes of a module's parameters and buffers and of its optimizer's state."""
    tensors = [*module.parameters(), *module.buffers()]
    if optimizer is not None:
        tensors += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in tensors)


def environment(device: str) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_results(path: Path | None) -> dict[str, Any]:
    """Return what an earlier run has written, so that a run goes on where it was stopped."""
    return json.loads(path.read_text())["results"] if path and path.exists() else {}


def write_results(path: Path | None, device: str, results: dict[str, Any]) -> None:
    """Write all results so far, under a temporary name first."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"device": device, "results": results}, indent=1) + "\n")
    os.replace(partial, path)


def say(text: str) -> None:
    """Report progress apart from the tables, which go to the standard output."""
    print(text, file=sys.stderr, flush=True)
