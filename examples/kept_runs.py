"""Runs that are kept in files, so that a study goes on where it stopped."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atomic import write_json


def kept(path: Path, training: Mapping[str, Any], carry_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the run that the file holds; without a file, carry it out and keep it.

    Args:
        path: The file of the run.
        training: Options that the run has to have under "training".
        carry_out: Makes the run.

    Raises:
        ValueError: The run in the file was trained with other options.
    """
    if not path.exists():
        write_json(path, carry_out())
    run: dict[str, Any] = json.loads(path.read_text())
    if run["training"] != training:
        raise ValueError(f"{path} was trained otherwise: {run['training']}; use another --output")
    return run
