"""Runs that are kept in files, so that a study goes on where it stopped."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atomic import write_json
from provenance import commit


def kept(path: Path, training: Mapping[str, Any], carry_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the run that the file holds; without a file, carry it out and keep it.

    A run of another commit is warned of: it may have been made otherwise.

    Args:
        path: The file of the run.
        training: Options that the run has to have under "training".
        carry_out: Makes the run, with "training" and "commit".

    Raises:
        ValueError: The run in the file was trained with other options.
    """
    if not path.exists():
        write_json(path, carry_out())
    run: dict[str, Any] = json.loads(path.read_text())
    if run["training"] != training:
        raise ValueError(f"{path} was trained otherwise: {run['training']}; use another --output")
    if run["commit"] != commit():
        warnings.warn(f"{path} is a run of commit {run['commit']}, and this is {commit()}", stacklevel=2)
    return run
