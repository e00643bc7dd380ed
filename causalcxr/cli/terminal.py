"""What commands write: results on the standard output, all else on the standard error, beside a progress bar."""

import csv
import io
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm  # comes with huggingface-hub

__all__ = ["csv_line", "progress", "reporting", "say", "write"]


def write(text: str) -> None:
    """Write a result at once, so that an interrupted run keeps what it has."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a message."""
    tqdm.write(text, file=sys.stderr)


def progress(items: Iterable[Any], description: str, unit: str) -> Iterable[Any]:
    """Show how far a loop is, on a terminal."""
    return tqdm(items, description, unit=unit, leave=False, disable=None, dynamic_ncols=True)


@contextmanager
def reporting(problems: list[str]) -> Iterator[None]:
    """Say warnings, and errors of files, which end the block and are added to `problems`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (OSError, ValueError, ImportError, csv.Error) as error:
            problems.append(str(error))
            say(f"error: {error}")
    for warning in caught:
        say(f"warning: {warning.message}")


def csv_line(cells: Iterable[Any]) -> str:
    """Return the line of a CSV file, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
