"""Time and peak memory of several ways to do the same thing, taken in turns, and files that keep them."""

import itertools
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.benchmark import Timer

Side = Callable[[], object]


def in_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round for each side.

    A round times every side once after a warm-up, in the order of the round before reversed, so that neither drift nor
    who comes first favours a side.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            times[name].append(timers[name].timeit(1).mean)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> dict[str, Any]:
    """Return the median and the quartiles of the rounds' ratios, and the median seconds of both sides."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "seconds": {name: statistics.median(took) for name, took in times.items()},
    }


def peak_memory(run: Side) -> int:
    """Return the bytes of tensors that a run takes at its peak beyond those held before: the same at every run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def commit() -> str:
    """Return the commit of the checkout, `-dirty` where files differ, "unknown" where git does not tell."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


class Results:
    """Rows by their titles, kept in a file so that a run that was stopped goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[str, Any] = json.loads(path.read_text())["results"] if path and path.exists() else {}

    def measure(self, title: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Measure a row, unless there is one of this title."""
        if title in self.rows:
            return
        torch.manual_seed(0)
        environment = {"commit": commit(), "threads": torch.get_num_threads()}
        environment |= {"torch": str(torch.__version__), "timm": timm.__version__}
        self.rows[title] = measured() | {"seed": 0, "environment": environment}
        if self.path:
            write_json(self.path, {"results": self.rows})

    def finish(self, table: Callable[[dict[str, Any]], str]) -> None:
        """Print the table, and write it beside the rows."""
        print(table(self.rows))
        if self.path:
            self.path.with_suffix(".md").write_text(table(self.rows) + "\n")


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *body])


def time_of(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
