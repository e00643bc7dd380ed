"""The command line: scores of radiographs, the models there are, and AUROC of scores against labels."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from causalcxr import __version__
from causalcxr.cli.panel import require_matplotlib
from causalcxr.cli.scoring import NOT_FOR_CLINICAL_USE, PANEL_SUFFIX, Prediction, find_images, score_images
from causalcxr.cli.tables import Auroc, auroc_table, evaluate, match, read_table
from causalcxr.cli.terminal import csv_line, progress, reporting, say, write
from causalcxr.models import CausalCXR, create_model, is_model, list_models, list_pretrained

__all__ = ["main"]

DEFAULT_MODEL = "causal_efficientnet_lite0"
AT_THRESHOLD = "* at or above the threshold of the finding, which was fitted on validation images"
DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2


class CommandError(Exception):
    """What ends a command before anything is done."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its arguments. Default: those of the process.

    Returns:
        0 if all is done, 1 if some images failed, 2 if the arguments are wrong or nothing could be done.
    """
    arguments = vars(_parser().parse_args(argv))
    try:
        return arguments.pop("command")(**arguments)
    except CommandError as error:
        say(f"error: {error}")
        return NOTHING_DONE
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "causalcxr", description=f"Chest X-ray classification from a causal perspective. {NOT_FOR_CLINICAL_USE}"
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Callable[..., int], name: str, summary: str, details: str) -> argparse.ArgumentParser:
        description = f"{summary}. {details} {NOT_FOR_CLINICAL_USE}"
        added = commands.add_parser(name, help=summary, description=description)
        added.set_defaults(command=command)
        return added

    options = add(
        _predict,
        "predict",
        "Score radiographs: the probability of each finding",
        "Exit status: 0 if all images are scored, 1 if some could not be, 2 if there are none.",
    )
    options.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, TIFF or DICOM file, folder or pattern")
    options.add_argument(
        "--model", default=DEFAULT_MODEL, help="name, hf-hub:OWNER/REPO, or folder of a model (default: %(default)s)"
    )
    options.add_argument("--heatmap", type=Path, metavar="DIR", help=f"save a picture of each image, *{PANEL_SUFFIX}")
    _add_format(options)

    options = add(_models, "models", "List the models", "Those with weights are listed with their tags.")
    options.add_argument("filter", nargs="?", default="", metavar="FILTER", help="part of a name, or a pattern")

    options = add(
        _evaluate,
        "evaluate",
        "AUROC of scores against labels, with intervals",
        "The intervals hold 95 of 100 resamples. Images are matched by file name; other columns of the labels can be "
        "used as groups and patients.",
    )
    options.add_argument("scores", type=Path, metavar="SCORES.csv", help="as written by predict --format csv")
    options.add_argument(
        "labels",
        type=Path,
        metavar="LABELS.csv",
        help="names of images (in a column path, image or Image Index) and labels, a column each, of 0, 1 or empty for "
        "unknown; or the table of the NIH release",
    )
    options.add_argument("--group", action="append", default=[], metavar="COLUMN", help="also within each value of it")
    options.add_argument("--patients", metavar="COLUMN", help="draw patients for the intervals, not images")
    _add_format(options)
    return parser


def _add_format(options: argparse.ArgumentParser) -> None:
    options.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: %(default)s")


def _predict(images: list[str], model: str, heatmap: Path | None, format: str) -> int:
    paths, problems = find_images(images)
    for problem in problems:
        say(f"error: {problem}")
    if not paths:
        raise CommandError("no image found")
    if heatmap is not None:
        try:
            require_matplotlib()
            heatmap.mkdir(parents=True, exist_ok=True)
        except (ImportError, OSError) as error:
            raise CommandError(error) from error
    loaded, labels = _load(model)
    if heatmap is not None and not isinstance(loaded, CausalCXR):
        raise CommandError(f"the model {model} is a plain one of timm and has no heat maps; leave --heatmap out")
    predictions = score_images(loaded, labels, paths, heatmap, problems)
    {"table": _write_table, "json": _write_json, "csv": _write_csv}[format](predictions, labels)
    return SOME_FAILED if problems else DONE


def _load(name: str) -> tuple[Any, list[str]]:
    """Return the model in evaluation mode, on a GPU where there is one, and the names of its outputs."""
    try:
        source = Path(name) if not is_model(name) and os.path.isdir(name) else name
        model: Any = create_model(source, pretrained=True)
    except Exception as error:  # of timm, the Hub or safetensors
        raise CommandError(f"cannot load the model {name}: {error}") from error
    if model.num_classes == 0:
        raise CommandError(f"the model {name} has no labels")
    labels = model.label_names or [f"label_{k}" for k in range(model.num_classes)]
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), list(labels)


def _write_table(predictions: Iterable[Prediction], labels: list[str]) -> None:
    width, legend = max(map(len, labels)), []
    for path, scores, positives in predictions:
        highest_first = sorted(scores.items(), key=lambda item: -item[1])
        lines = [
            f"{'*' if label in (positives or ()) else ' '} {label:<{width}}  {score:.3f}  {'#' * round(20 * score)}"
            for label, score in highest_first
        ]
        write("\n".join([str(path), *map(str.rstrip, lines), ""]))
        legend = [] if positives is None else [AT_THRESHOLD]
    write("\n".join([*legend, NOT_FOR_CLINICAL_USE]))


def _write_json(predictions: Iterable[Prediction], labels: list[str]) -> None:
    """Write a list, an image a line."""
    write("[")
    for number, (path, scores, positives) in enumerate(predictions):
        image = {"path": str(path), "scores": scores, "positives": positives}
        write((", " if number else "  ") + json.dumps(image, allow_nan=False))
    write("]")


def _write_csv(predictions: Iterable[Prediction], labels: list[str]) -> None:
    write(csv_line(["path", *labels]))
    for path, scores, _ in predictions:
        write(csv_line([path, *scores.values()]))


def _models(filter: str) -> int:
    names = list_models(filter if any(wildcard in filter for wildcard in "*?[") else f"*{filter}*")
    if not names:
        raise CommandError(f"no model matches {filter!r}")
    tagged = list_pretrained()
    width = max(map(len, names))
    for name in names:
        weights = [known for known in tagged if known.split(".")[0] == name]
        write(f"{name:<{width}}  {', '.join(weights) or 'no published weights'}")
    return DONE


def _evaluate(scores: Path, labels: Path, group: list[str], patients: str | None, format: str) -> int:
    if patients is None:
        say("warning: intervals over images are too narrow where a patient has several; give --patients COLUMN")
    problems: list[str] = []
    results: list[Auroc] = []
    with reporting(problems):
        matched = match(read_table(scores), read_table(labels))
        results = list(progress(evaluate(matched, group, patients), "intervals", " labels"))
    if problems:
        return NOTHING_DONE
    if format == "json":
        write(json.dumps([row._asdict() for row in results], indent=1, allow_nan=False))
    elif format == "csv":
        write("\n".join(csv_line(row) for row in [Auroc._fields, *results]))
    else:
        write(auroc_table(results))
    return DONE
