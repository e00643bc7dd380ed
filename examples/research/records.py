"""What all studies share: files that are there whole or not at all, what they were made with, and tables."""

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
    """Write under another name first, so that the file is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def publish(path: Path | None, content: Any, table: str) -> None:
    """Print a table; with a path, write the content there and the table beside it."""
    print(table)
    if path:
        write_json(path, content)
        path.with_suffix(".md").write_text(table)


def commit() -> str:
    """Return the commit of this checkout, `-dirty` where files differ from it, "unknown" where git does not tell."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def versions(device: str = "cpu") -> dict[str, Any]:
    """Return what the figures were made with."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    packages = {module.__name__: str(module.__version__) for module in (torch, timm, np, causalcxr)}
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **packages}


def kept(path: Path, training: dict[str, Any], carry_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the run that the file holds; without a file, carry it out and keep it.

    A run of another commit is warned of: it may have been made otherwise.
    """
    made_by = commit()
    if not path.exists():
        write_json(path, carry_out() | {"training": training, "commit": made_by, "versions": versions()})
    run: dict[str, Any] = json.loads(path.read_text())
    if run["training"] != training:
        raise ValueError(f"{path} was trained otherwise: {run['training']}; use another --output")
    if run["commit"] != made_by:
        warnings.warn(f"{path} is a run of commit {run['commit']}, and this is {made_by}", stacklevel=2)
    return run


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *body])
