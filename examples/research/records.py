"""Shared by all studies: atomic JSON files, records of commit and versions, and Markdown tables."""

import functools
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import causalcxr


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, by renaming a temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def publish(path: Path | None, content: Any, table: str) -> None:
    """Print a table. With a path, also write the content there and the table next to it."""
    print(table)
    if path:
        write_json(path, content)
        path.with_suffix(".md").write_text(table)


@functools.cache  # results that a program writes into its own checkout do not make it dirty
def commit() -> str:
    """Return the commit of this checkout, with `-dirty` if files differ from it, or "unknown" if git fails.

    In a copy without git, set the environment variable `COMMIT`.
    """
    if given := os.environ.get("COMMIT"):
        return given
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def versions(device: str = "cpu") -> dict[str, Any]:
    """Return the device, the number of threads and the package versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    packages = {module.__name__: str(module.__version__) for module in (torch, timm, np, causalcxr)}
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **packages}


def kept(
    path: Path, training: dict[str, Any], carry_out: Callable[[], dict[str, Any]], device: str = "cpu"
) -> dict[str, Any]:
    """Return the run stored in the file. If there is none, carry it out and store it.

    Warns if the run is from another commit, since its code may differ.
    """
    made_by = commit()
    if not path.exists():
        write_json(path, carry_out() | {"training": training, "commit": made_by, "versions": versions(device)})
    run: dict[str, Any] = json.loads(path.read_text())
    if run["training"] != training:
        raise ValueError(f"{path} was trained with other options: {run['training']}; use another --output")
    if run["commit"] != made_by:
        warnings.warn(f"{path} is a run of commit {run['commit']}, but this is {made_by}", stacklevel=2)
    return run


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *body])
