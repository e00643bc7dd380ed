"""Arguments of the `causalcxr` command.

They are outside the package, which takes seconds to import, so that `--help` and `--version` are instant.
"""

import argparse
import importlib.metadata
import io
import sys
from pathlib import Path

__all__ = ["main", "parser"]

DEFAULT_MODEL = "causal_efficientnet_lite0"
NOT_FOR_CLINICAL_USE = "Research software, not a medical device, not for clinical use."


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Command-line arguments. Default: those of the process.

    Returns:
        0 on success, 1 if some images failed, 2 if the arguments are wrong or nothing could be done, 130 on Ctrl-C.
    """
    arguments = vars(parser().parse_args(argv))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # writes file names that are not UTF-8 unchanged
    from causalcxr.cli import run

    return run(**arguments)


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of all commands."""
    result = argparse.ArgumentParser(
        "causalcxr", description=f"Chest X-ray classification from a causal perspective. {NOT_FOR_CLINICAL_USE}"
    )
    result.add_argument("--version", action="version", version=importlib.metadata.version("causalcxr"))
    commands = result.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add(name: str, summary: str, details: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=f"{summary}. {details} {NOT_FOR_CLINICAL_USE}", allow_abbrev=False
        )

    options = add(
        "predict",
        "Predict the probability of each finding in radiographs",
        "Exit status: 0 if all images were scored, 1 if some failed, 2 if none could be scored.",
    )
    options.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, TIFF or DICOM file, folder or glob")
    options.add_argument(
        "--model", default=DEFAULT_MODEL, help="model name, hf-hub:OWNER/REPO or folder (default: %(default)s)"
    )
    options.add_argument("--format", choices=("table", "csv", "jsonl"), default="table", help="default: %(default)s")
    options.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write rows to FILE.csv or FILE.jsonl; if it exists, score only images that are not in it",
    )
    options.add_argument("--heatmap", type=Path, metavar="DIR", help="save evidence maps in DIR, as *.heatmap.png")
    options.add_argument(
        "--finding",
        action="append",
        default=[],
        metavar="NAME",
        help="finding to draw, repeatable; default: all at or above their threshold, at least 3",
    )
    options.add_argument("--attention", action="store_true", help="draw the paper's attention maps, not the evidence")
    options.add_argument("--device", help="e.g. cpu or cuda:1; default: a GPU if available")
    options.add_argument("--batch-size", type=_count, default=8, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--workers", type=_count, default=2, metavar="N", help="threads that read and score (default: %(default)s)"
    )

    options = add("models", "List the models", "Models with published weights are listed with their tags.")
    options.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name, or a glob")

    options = add(
        "evaluate",
        "Compute AUROCs with intervals from scores and labels",
        "Intervals are 95 % bootstrap percentiles. Images are matched by file name, or by path if names repeat.",
    )
    options.add_argument("scores", type=Path, metavar="SCORES.csv", help="CSV file written by predict")
    options.add_argument(
        "labels",
        type=Path,
        metavar="LABELS.csv",
        help="CSV file with a column path, image or Image Index and 0, 1 or empty per label; or the NIH table",
    )
    options.add_argument("--group", action="append", default=[], metavar="COLUMN", help="also split by this column")
    options.add_argument("--patients", metavar="COLUMN", help="resample patients, not images, for the intervals")
    options.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: %(default)s")
    return result


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
