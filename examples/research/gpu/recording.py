"""What a part measures, written to disk after each row."""

import argparse
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import causalcxr
from benchmarks.measuring import commit, write_json


def arguments(description: str | None) -> argparse.Namespace:
    """Read the arguments that every part takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="shrink all sizes: a trial of the program, no measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="", help="commit of the code, where there is no git")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    return args


class Record:
    """The JSON file of one part."""

    def __init__(self, part: str, args: argparse.Namespace) -> None:
        self.args, self.part, self.failed = args, part, False
        self.started = time.time()
        self.content: dict[str, Any] = {"part": part, **environment(args), "rows": []}
        self.write()

    def row(self, name: str, shown: str, *, met: bool = True, **measured: Any) -> None:
        """Add what was measured in words, and its numbers; a part fails where something is not `met`."""
        self.failed |= not met
        shown = shown if met else f"FAILED: {shown}"
        self.content["rows"].append({"name": name, "shown": shown, **measured})
        print(f"{time.time() - self.started:6.1f} s  {name}: {shown}", flush=True)
        self.write()

    def run(self, steps: Sequence[Callable[["Record"], None]]) -> int:
        """Run the steps, most important first, and go on where one fails. Return the exit status."""
        for step in steps:
            try:
                step(self)
            except Exception as error:
                traceback.print_exc()
                name, text = getattr(step, "__name__", "step"), traceback.format_exc()
                self.row(name, f"{type(error).__name__}: {str(error)[:160]}", met=False, error=text[-4000:])
        return int(self.failed)

    def write(self) -> None:
        """Replace the file."""
        self.content["seconds"] = round(time.time() - self.started, 1)
        write_json(self.args.output / f"{self.part}.json", self.content)


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Return the device, the versions, the commit and the seed."""
    cuda = args.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 2) if cuda else None,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "timm": version("timm"),
        "torchvision": version("torchvision"),
        "causalcxr": causalcxr.__version__,
        "commit": args.commit or commit(),
        "seed": args.seed,
        "small": args.small,
    }
