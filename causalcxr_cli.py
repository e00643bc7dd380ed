"""The arguments of the command `causalcxr`.

They are outside the package, whose import takes seconds, so that `--help` and `--version` answer at once.
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
        argv: Its arguments. Default: those of the process.

    Returns:
        0 if all is done, 1 if some images failed, 2 if the arguments are wrong or nothing could be done.
    """
    arguments = vars(parser().parse_args(argv))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name that is not UTF-8 leaves as it came
    from causalcxr.cli import run

    return run(**arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
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
        "Score radiographs: the probability of each finding",
        "Exit status: 0 if all images are scored, 1 if some could not be, 2 if none could.",
    )
    options.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, TIFF or DICOM file, folder or pattern")
    options.add_argument(
        "--model", default=DEFAULT_MODEL, help="name, hf-hub:OWNER/REPO, or folder of a model (default: %(default)s)"
    )
    options.add_argument("--format", choices=("table", "csv", "jsonl"), default="table", help="default: %(default)s")
    options.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write rows to FILE.csv or FILE.jsonl; if it exists, only images that are missing in it are scored",
    )
    options.add_argument("--heatmap", type=Path, metavar="DIR", help="draw the evidence in each image, *.heatmap.png")
    options.add_argument(
        "--finding",
        action="append",
        default=[],
        metavar="NAME",
        help="draw this one, and others with further --finding; default: all at or above their threshold, at least 3",
    )
    options.add_argument("--attention", action="store_true", help="draw the attention of the paper, not the evidence")
    options.add_argument("--device", help="such as cpu or cuda:1; default: a GPU where there is one")
    options.add_argument("--batch-size", type=_count, default=8, metavar="N", help="default: %(default)s")
    options.add_argument(
        "--workers", type=_count, default=2, metavar="N", help="threads that read and score (default: %(default)s)"
    )

    options = add("models", "List the models", "Those with weights are listed with their tags.")
    options.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name, or a pattern")

    options = add(
        "evaluate",
        "AUROC of scores against labels, with intervals",
        "The intervals hold 95 of 100 resamples. Images are matched by file name, or by path where names repeat.",
    )
    options.add_argument("scores", type=Path, metavar="SCORES.csv", help="as written by predict")
    options.add_argument(
        "labels",
        type=Path,
        metavar="LABELS.csv",
        help="a column path, image or Image Index, and one of 0, 1 or empty for each label; or the NIH table",
    )
    options.add_argument("--group", action="append", default=[], metavar="COLUMN", help="also within each value of it")
    options.add_argument("--patients", metavar="COLUMN", help="draw patients for the intervals, not images")
    options.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: %(default)s")
    return result


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
