"""Runs that are kept in files, so that a study goes on where it stopped."""

import json
import os
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

import causalcxr


def kept(path: Path, training: dict[str, Any], carry_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the run that the file holds; without a file, carry it out and keep it.

    A run of another commit is warned of: it may have been made otherwise.
    """
    facts = {"training": training, "commit": commit()}
    if not path.exists():
        versions = {module.__name__: str(module.__version__) for module in (causalcxr, torch, timm)}
        write_json(path, carry_out() | facts | {"versions": versions})
    run: dict[str, Any] = json.loads(path.read_text())
    if run["training"] != training:
        raise ValueError(f"{path} was trained otherwise: {run['training']}; use another --output")
    if run["commit"] != facts["commit"]:
        warnings.warn(f"{path} is a run of commit {run['commit']}, and this is {facts['commit']}", stacklevel=2)
    return run


def commit() -> str:
    """The commit of this checkout, with "-dirty" if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def write_json(path: Path, content: Any) -> None:
    """Write under another name first, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *body])
