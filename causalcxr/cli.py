"""The commands `predict`, `models` and `evaluate`; their arguments are in `causalcxr_cli`.

Results go to the standard output, all else to the standard error, beside a progress bar.
"""

import contextlib
import csv
import glob
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm  # comes with huggingface-hub

from causalcxr.data.image import is_dicom
from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih_tables import few
from causalcxr.inference import predict as score
from causalcxr.metrics import bootstrap_auroc
from causalcxr.models import create_model, is_model, list_models, list_pretrained
from causalcxr.panel import PANEL_SUFFIX, Panels

__all__ = ["run"]

DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
NOT_FOR_CLINICAL_USE = "Research software, not a medical device, not for clinical use."
AT_THRESHOLD = "* at or above the threshold of the finding, which was fitted on validation images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
IMAGE_COLUMNS = ("path", "image", "Image Index")
NIH_FINDINGS = "Finding Labels"
TARGETS = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
AUROC_COLUMNS = ("group", "label", "images", "positives", "patients", "auroc", "low", "high", "incomplete")


class CommandError(Exception):
    """What ends a command before anything is done."""


def run(command: str, **arguments: Any) -> int:
    """Run a command with the arguments that `causalcxr_cli` read, and return the exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        try:
            commands: dict[str, Callable[..., int]] = {"predict": _predict, "models": _models, "evaluate": _evaluate}
            return commands[command](**arguments)
        except CommandError as error:
            _say(f"error: {error}")
            return NOTHING_DONE
        except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return SOME_FAILED


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _write(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


# ---- predict


class Row(NamedTuple):
    """What a model says of one image."""

    path: str
    scores: dict[str, float] | None
    """Probabilities by label, in the model's order; calibrated where the model is. None where there are none."""
    positives: list[str] | None
    """Labels at or above their threshold; None where the model has no thresholds."""
    problems: list[str]


def _predict(
    images: list[str],
    model: str,
    format: str,
    output: Path | None,
    heatmap: Path | None,
    finding: list[str],
    attention: bool,
    device: str | None,
    batch_size: int,
    workers: int,
) -> int:
    if (finding or attention) and heatmap is None:
        raise CommandError("--finding and --attention say what --heatmap draws; give --heatmap DIR")
    if output is not None:
        format = output.suffix.removeprefix(".")
        if format not in ("csv", "jsonl"):
            raise CommandError(f"--output must end in .csv or .jsonl, not {output.name}")
    processes = _launched(device)
    first = processes is None or processes.is_main_process
    paths, problems = find_images(images)
    for problem in problems if first else ():
        _say(f"error: {problem}")
    if not paths:
        raise CommandError("no image found")
    loaded, labels = _load(model, processes.device if processes else device)
    writer = _Writer(format, model, labels, getattr(loaded.calibration, "thresholds", None))
    panels = None
    try:
        if heatmap is not None:
            panels = Panels(loaded, labels, heatmap, paths, finding, attention)
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(error) from error
    left = writer.open(output, paths) if first else []
    failed, succeeded = bool(problems), len(left) < len(paths)
    if processes is not None:
        from accelerate.utils import broadcast_object_list

        [left] = broadcast_object_list([left])
        with processes.split_between_processes(left) as part:
            rows = _together(_rows(loaded, labels, part, panels, batch_size, workers), batch_size)
    else:
        rows = _rows(loaded, labels, left, panels, batch_size, workers)
    for row in tqdm(rows, "scoring", len(left), unit=" images", leave=False, disable=None if first else True):
        failed |= bool(row.problems)
        if first:
            for problem in row.problems:
                _say(f"error: {problem}")
            if row.scores is not None:
                writer.write(row)
        succeeded |= row.scores is not None
    if first:
        writer.close()
    if processes is not None:
        processes.destroy_process_group()
    if not failed or not first:
        return DONE
    return SOME_FAILED if succeeded else NOTHING_DONE


def _launched(device: str | None) -> Any:
    """Return the processes that torchrun or `accelerate launch` started, or None if this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise CommandError("several processes need accelerate: pip install accelerate") from error
    return PartialState(cpu=device == "cpu")


def _together(rows: Iterator[Row], every: int) -> Iterator[Row]:
    """Yield the rows of all processes, which meet after so many rows of each."""
    from accelerate.utils import gather_object

    while block := gather_object(list(islice(rows, every))):
        yield from block


def find_images(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Find the images that files, folders and patterns name.

    Args:
        arguments: Files are taken as they are; of a folder and those below it, files with the ending of an image and
            DICOM files of any name.

    Returns:
        The files, each once, and what is wrong with arguments that name none.
    """
    found: dict[Path, None] = {}
    problems = []
    for argument in arguments:
        names = [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))
        files = [file for name in names for file in _files(Path(name))]
        if not files:
            problems.append(f"no image in folder {argument}" if os.path.isdir(argument) else f"no file {argument}")
        found |= dict.fromkeys(files)
    return list(found), problems


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if _is_image(file)) if path.is_dir() else [path]


def _is_image(file: Path) -> bool:
    if file.name.startswith(".") or file.name == "DICOMDIR" or file.name.endswith(PANEL_SUFFIX) or not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(132))
    except OSError:  # reading it later says why
        return True


def _load(name: str, device: Any) -> tuple[Any, list[str]]:
    """Return the model in evaluation mode, and the names of its outputs."""
    try:
        source = Path(name) if not is_model(name) and os.path.isdir(name) else name
        model: Any = create_model(source, pretrained=True)
    except Exception as error:  # of timm, the Hub or safetensors
        raise CommandError(f"cannot load the model {name}: {error}") from error
    if model.num_classes == 0:
        raise CommandError(f"the model {name} has no labels")
    try:
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:  # as torch meets a device that there is not
        raise CommandError(f"cannot use the device {device}: {error}") from error
    return model.eval(), list(model.label_names or (f"label_{k}" for k in range(model.num_classes)))


def _rows(
    model: Any, labels: list[str], paths: list[Path], panels: Panels | None, batch_size: int, workers: int
) -> Iterator[Row]:
    calibration = model.calibration
    predictions = score(model, paths, batch_size=batch_size, workers=workers)
    for path, (_, logits, error) in zip(paths, predictions, strict=True):
        if logits is None:
            yield Row(str(path), None, None, [str(error)])
            continue
        probabilities = (calibration.probabilities(logits[None])[0] if calibration else logits.sigmoid()).tolist()
        scores = dict(zip(labels, map(_rounded, probabilities), strict=True))
        positives = None
        if calibration is not None:
            present = calibration.positives(logits[None])[0].tolist()
            positives = [label for label, positive in zip(labels, present, strict=True) if positive]
        row = Row(str(path), scores, positives, [])
        if panels is not None:
            try:
                panels.draw(path, scores, positives or ())
            except (OSError, ValueError) as problem:
                row.problems.append(str(problem))
        yield row


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


class _Writer:
    """Rows as they come, to the standard output or to a file that has those of a run before."""

    def __init__(self, format: str, model: str, labels: list[str], thresholds: tuple[float, ...] | None) -> None:
        self.format, self.model, self.labels, self.file = format, model, labels, sys.stdout
        self.thresholds = dict(zip(labels, map(_rounded, thresholds), strict=True)) if thresholds else None
        self.columns = ["path", "model", *labels, "positives", *(f"{label} threshold" for label in labels)]

    def open(self, output: Path | None, paths: list[Path]) -> list[Path]:
        """Open the file, and return the paths that it has no row of."""
        done: set[str] = set()
        try:
            if output is not None and output.exists():
                done = self._rows_of(output)
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                self.file = output.open("a", newline="", encoding="utf-8", errors="surrogateescape")
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            raise CommandError(f"cannot go on with {output}: {error}") from error
        if self.format == "csv" and (output is None or output.stat().st_size == 0):
            self._line(_csv_line(self.columns))
        return [path for path in paths if str(path) not in done]

    def _rows_of(self, output: Path) -> set[str]:
        """Return the paths of the rows, and cut off one that was not finished, once the file is known as ours."""
        with output.open("rb") as file:
            whole = max((file.tell() for line in iter(file.readline, b"") if line.endswith(b"\n")), default=0)
        done = set()
        with output.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
            lines = (line for line in text if line.endswith("\n"))
            if self.format == "csv":
                rows: Iterable[dict[str, Any]] = (reader := csv.DictReader(lines))
                fits = [*(reader.fieldnames or ())] == self.columns
            else:
                rows, fits = map(json.loads, lines), whole > 0
            if not fits and output.stat().st_size:
                raise ValueError("it has other columns")
            for row in rows:
                if self.format == "jsonl" and list(row["scores"]) != self.labels:
                    raise ValueError("it has other labels")
                if row["model"] != self.model:
                    raise ValueError(f"its rows are of the model {row['model']}")
                done.add(row["path"])
        os.truncate(output, whole)
        return done

    def write(self, row: Row) -> None:
        scores = row.scores or {}
        if self.format == "csv":
            thresholds = self.thresholds.values() if self.thresholds else [""] * len(self.labels)
            self._line(_csv_line([row.path, self.model, *scores.values(), "|".join(row.positives or ()), *thresholds]))
        elif self.format == "jsonl":
            result: dict[str, Any] = {"path": row.path, "model": self.model, "scores": scores}
            result |= {"thresholds": self.thresholds, "positives": row.positives}
            self._line(json.dumps(result, allow_nan=False))
        else:
            width = max(map(len, self.labels))
            self._line(row.path)
            for label, value in sorted(scores.items(), key=lambda item: -item[1]):
                mark = "*" if label in (row.positives or ()) else " "
                self._line(f"{mark} {label:<{width}}  {value:.3f}  {'#' * round(20 * value)}".rstrip())
            self._line("")

    def close(self) -> None:
        if self.format == "table":
            self._line("\n".join([AT_THRESHOLD] * (self.thresholds is not None) + [NOT_FOR_CLINICAL_USE]))
        elif self.file is not sys.stdout:
            self.file.close()

    def _line(self, text: str) -> None:
        if self.file is sys.stdout:
            _write(text)
        else:
            self.file.write(text + "\n")
            self.file.flush()  # a run that is killed keeps what it has


# ---- models


def _models(filter: str) -> int:
    names = list_models(filter if any(wildcard in filter for wildcard in "*?[") else f"*{filter}*")
    if not names:
        raise CommandError(f"no model matches {filter!r}")
    tagged = list_pretrained()
    width = max(map(len, names))
    for name in names:
        weights = [known for known in tagged if known.split(".")[0] == name]
        _write(f"{name:<{width}}  {', '.join(weights) or 'no published weights'}")
    return DONE


# ---- evaluate


def _evaluate(scores: Path, labels: Path, group: list[str], patients: str | None, format: str) -> int:
    if patients is None:
        _say("warning: intervals over images are too narrow where a patient has several; give --patients COLUMN")
    try:
        results = list(_aurocs(_read_table(scores), _read_table(labels), scores, labels, group, patients))
    except (OSError, ValueError, csv.Error) as error:
        raise CommandError(error) from error
    if format == "json":
        _write(json.dumps([dict(zip(AUROC_COLUMNS, row, strict=True)) for row in results], indent=1, allow_nan=False))
    elif format == "csv":
        _write("\n".join(_csv_line(row) for row in [AUROC_COLUMNS, *results]))
    else:
        _write(_table(results))
    return DONE


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV file by the file name of their image."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
        if image_column is None:
            raise ValueError(
                f"{path} has no column of image names ({', '.join(IMAGE_COLUMNS)}); its columns: {few(columns)}"
            )
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if None in row or None in row.values():  # how csv marks surplus and missing cells
                raise ValueError(f"{path}, line {reader.line_num}: not {len(columns)} cells as in the header")
            name = PurePath(row[image_column].replace("\\", "/")).name
            if name in rows:
                raise ValueError(f"{path} has several rows for {name!r} (images are matched by file name)")
            rows[name] = row
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def _aurocs(
    scored: dict[str, dict[str, str]],
    labelled: dict[str, dict[str, str]],
    scores_path: Path,
    labels_path: Path,
    group_columns: list[str],
    patient_column: str | None,
) -> Iterator[tuple[Any, ...]]:
    """Yield the AUROC of each label and their mean, over all images and within each value of the group columns."""
    if unlabelled := [name for name in scored if name not in labelled]:
        raise ValueError(f"{len(unlabelled)} images of {scores_path} are not in {labels_path}: {few(unlabelled)}")
    if unscored := [name for name in labelled if name not in scored]:
        counts = f"{len(unscored)} of {len(labelled)}"
        warnings.warn(
            f"{counts} images of {labels_path} have no scores and are left out: {few(unscored)}", stacklevel=2
        )
    columns, rows = next(iter(labelled.values())), [labelled[name] for name in scored]
    names = [name for name in next(iter(scored.values())) if name not in (*IMAGE_COLUMNS, "model", "positives")]
    names = [name for name in names if not name.endswith(" threshold")]
    labels = [name for name in names if name in columns or (NIH_FINDINGS in columns and name in NIH_LABELS)]
    missing = [name for name in names if name not in labels]
    if not labels:
        raise ValueError(f"{labels_path} has none of the labels {few(names)}; its columns: {few(list(columns))}")
    if missing:
        warnings.warn(f"{labels_path} has no column for {few(missing)}: left out", stacklevel=2)
    for column in [*group_columns, *([patient_column] if patient_column else [])]:
        if column not in columns:
            raise ValueError(f"the labels have no column {column!r}; their columns: {', '.join(columns)}")
    scores = np.array([[_number(row[k], f"{scores_path}: {name}") for k in labels] for name, row in scored.items()])
    pairs = zip(scored, rows, strict=True)
    targets = np.array([[_target(row, k, f"{labels_path}: {name}") for k in labels] for name, row in pairs])
    patients = np.array([row[patient_column] for row in rows]) if patient_column else np.arange(len(rows))
    if patient_column and "" in patients:
        raise ValueError(f"{np.sum(patients == '')} images have no {patient_column!r}")
    members = {"all images": np.ones(len(rows), dtype=bool)}
    for column in group_columns:
        values = np.array([row[column] for row in rows])
        members |= {f"{column} = {value or '(empty)'}": values == value for value in np.unique(values)}
    for group, chosen in members.items():
        yield from _group_aurocs(group, labels, scores[chosen], targets[chosen], patients[chosen])


def _group_aurocs(
    group: str, labels: list[str], scores: np.ndarray, targets: np.ndarray, patients: np.ndarray
) -> Iterator[tuple[Any, ...]]:
    if len(np.unique(patients)) < 2:
        warnings.warn(f"{group} has one patient, so no interval: left out", stacklevel=2)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "AUROC is undefined")  # seen in the result
        result = bootstrap_auroc(scores, targets, patients)
    known = (~np.isnan(targets)).sum(axis=0)
    counts = zip(known, result.positives, result.positive_groups, *result.per_label, result.undefined, strict=True)
    for label, row in zip(labels, counts, strict=True):
        yield group, label, *(None if np.isnan(value) else value.item() for value in row)
    figures = [None if np.isnan(value) else float(value) for value in result.mean]
    yield group, f"mean of {result.num_labels}", len(targets), None, None, *figures, result.incomplete


def _table(results: list[tuple[Any, ...]]) -> str:
    """Return the results as text for people, a block for each group."""
    width = max(len(row[1]) for row in results)
    lines = []
    for group, rows in groupby(results, key=lambda row: row[0]):
        lines += ["", group, f"  {'label':<{width}}  images  positives  patients  AUROC  95 % interval"]
        for _, label, images, positives, patients, auroc, low, high, _ in rows:
            counts = (
                f"{images:>6}  {'' if positives is None else positives:>9}  {'' if patients is None else patients:>8}"
            )
            lines.append(
                f"  {label:<{width}}  {counts}  "
                + ("    -" if auroc is None else f"{auroc:.3f}  {low:.3f} to {high:.3f}")
            )
    return "\n".join(lines[1:])


def _number(cell: str, place: str) -> float:
    with contextlib.suppress(ValueError):
        if np.isfinite(value := float(cell)):
            return value
    raise ValueError(f"{place} has the score {cell!r}")


def _target(row: dict[str, str], label: str, place: str) -> float:
    if label not in row:  # the NIH release: one column that lists what is there
        return float(label in row[NIH_FINDINGS].split("|"))
    if row[label].strip() not in TARGETS:
        raise ValueError(f"{place} has the label {row[label]!r} of {label!r}, expected 0, 1 or empty (unknown)")
    return TARGETS[row[label].strip()]
