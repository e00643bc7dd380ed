"""What a part measures, written to disk after each row."""

import argparse
import json
import os
import platform
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import causalcxr

MARGIN = 5.0  # seconds that a part keeps to end by itself before it is killed

Step = tuple[str, Callable[["Record"], None]]


class OutOfTimeError(BaseException):
    """The part's time is up. Not an `Exception`, which libraries catch."""


def arguments(description: str | None) -> argparse.Namespace:
    """Read the arguments that every part takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--small", action="store_true", help="shrink all sizes: a trial of the program, no measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="", help="commit of the code, where there is no git")
    parser.add_argument("--until", type=float, default=float("inf"), help="time.time() at which the part is killed")
    return parser.parse_args()


class Record:
    """The JSON file of one part.

    Args:
        part: Name of the part and of the file.
        args: From `arguments`.
    """

    def __init__(self, part: str, args: argparse.Namespace) -> None:
        self.args, self.part = args, part
        self.started = time.time()
        self.content: dict[str, Any] = {"part": part, **environment(args), "complete": False, "now": None, "rows": []}
        self.write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return self.content["rows"]

    @property
    def seconds_left(self) -> float:
        """Time until the part should end."""
        return self.args.until - MARGIN - time.time()

    def row(self, name: str, shown: str, *, goal: str = "", met: bool | None = None, **measured: Any) -> None:
        """Add a row.

        Args:
            name: What was measured.
            shown: The measurement in words, for the table.
            goal: What it should be.
            met: Whether it is.
            **measured: The numbers.
        """
        self.rows.append({"name": name, "shown": shown, "goal": goal, "met": met, **measured})
        print(f"{time.time() - self.started:6.1f} s  {name}: {shown}", flush=True)
        self.write()

    def error(self, name: str) -> None:
        """Add a row for the exception that is being handled."""
        text = traceback.format_exc()
        print(text, flush=True)
        last = text.strip().splitlines()[-1]
        self.rows.append({"name": name, "shown": f"failed: {last[:160]}", "error": text[-4000:]})
        self.write()

    def run(self, steps: Sequence[Step]) -> int:
        """Run the steps one after the other, most important first, and go on where one fails.

        Returns:
            The exit status: 1 if a step failed. Steps for which the time did not suffice are rows, not failures.
        """
        stop_before(self.seconds_left)
        failed = False
        for number, (name, step) in enumerate(steps):
            self.content["now"] = name
            self.write()
            try:
                step(self)
            except OutOfTimeError:
                self.rows.extend({"name": left, "shown": "not reached in time"} for left, _ in steps[number:])
                break
            except Exception:
                failed = True
                self.error(name)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.content |= {"complete": True, "now": None}
        self.write()
        return int(failed)

    def write(self) -> None:
        """Replace the file."""
        self.content["seconds"] = round(time.time() - self.started, 1)
        write_json(self.args.output / f"{self.part}.json", self.content)


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n")
    unfinished.replace(path)


def stop_before(seconds: float, error: type[BaseException] = OutOfTimeError) -> None:
    """Raise an error after so many seconds, wherever the program is."""

    def stop(*_: object) -> None:
        raise error("out of time")

    if seconds != float("inf"):
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Return the device, the versions, the commit and the seed."""
    cuda = args.device.startswith("cuda")
    properties = torch.cuda.get_device_properties(args.device) if cuda else None
    return {
        "device": torch.cuda.get_device_name(args.device) if cuda else platform.processor() or platform.machine(),
        "memory_gib": round(properties.total_memory / 2**30, 2) if properties else None,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "timm": _version("timm"),
        "torchvision": _version("torchvision"),
        "causalcxr": causalcxr.__version__,
        "commit": args.commit or commit(),
        "seed": args.seed,
        "small": args.small,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def commit() -> str:
    """Return the commit of the checkout, "unknown" where git does not tell."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
