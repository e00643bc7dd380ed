"""Measure time and peak memory of alternatives in turn, and write the results to files."""

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from records import commit, publish, versions, write_json

Side = Callable[[], object]
Row = dict[str, Any]


def in_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round for each side.

    Each round times every side once after a warm-up. The order is reversed from round to round, so that neither drift
    nor order favours a side. A GPU is synchronised before and after.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            times[name].append(timers[name].timeit(1).mean)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> Row:
    """Return median and quartiles of the per-round ratios, and the median seconds of each side."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "seconds": {name: statistics.median(took) for name, took in times.items()},
    }


def peak_memory(run: Side, device: str = "cpu") -> int:
    """Return the peak bytes of tensors that a run allocates in addition to those held before. It is deterministic."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def measure(
    rows: dict[str, Callable[[], Row]],
    table: Callable[[dict[str, Row]], str],
    path: Path | None,
    device: str = "cpu",
) -> None:
    """Measure rows, keyed by title, write each to the file as it finishes, and publish them with their table."""
    found: dict[str, Row] = {}
    for title, measured in rows.items():
        torch.manual_seed(0)
        found[title] = measured() | {"seed": 0, "commit": commit(), "versions": versions(device)}
        if path:
            write_json(path, {"results": found})
    publish(path, {"results": found}, table(found) + "\n")


def command(
    about: str | None,
    rows: Callable[..., dict[str, Callable[[], Row]]],
    table: Callable[[dict[str, Row]], str],
    argv: list[str] | None,
    **defaults: Any,
) -> None:
    """Parse the options of a benchmark, with `defaults`, and measure its `rows(**options)`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        kind: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        kind |= {"choices": ("cpu", "cuda")} if name == "device" else {}
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=f"default: {default}", **kind)
    parser.add_argument("--json", type=Path, help="write the results to this file, and the table next to it")
    options = vars(parser.parse_args(argv))
    path = options.pop("json")
    measure(rows(**options), table, path, options.get("device", "cpu"))
