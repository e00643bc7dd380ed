"""The commands `predict`, `models` and `evaluate`. Their arguments are defined in `causalcxr_cli`.

Results go to standard output; messages and the progress bar go to standard error.
"""

import csv
import glob
import io
import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from tqdm import tqdm  # a dependency of huggingface-hub

from causalcxr.calibration import weights_checksum
from causalcxr.data.image import is_dicom
from causalcxr.inference import predict as score
from causalcxr.models import create_model, is_model, list_models, list_pretrained
from causalcxr.panel import PANEL_SUFFIX, Panels
from causalcxr.score_tables import LabelAuroc, as_text, aurocs
from causalcxr_cli import NOT_FOR_CLINICAL_USE

__all__ = ["run"]

DONE, SOME_FAILED, NOTHING_DONE, STOPPED = 0, 1, 2, 130
AT_THRESHOLD = "* at or above the finding's threshold, which was fitted on validation images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")


class CommandError(Exception):
    """Stops a command before it does any work."""


def run(command: str, **arguments: Any) -> int:
    """Run a command with the arguments parsed by `causalcxr_cli`, and return the exit status."""
    commands: dict[str, Callable[..., int]] = {"predict": _predict, "models": _models, "evaluate": _evaluate}
    said: set[str] = set()

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:  # a film is read twice, for its scores and for its picture
            said.add(str(message))
            _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = warn
        try:
            return commands[command](**arguments)
        except CommandError as error:
            _say(f"error: {error}")
            return NOTHING_DONE
        except KeyboardInterrupt:
            _say("stopped; the same command continues" if arguments.get("output") else "stopped")
            return STOPPED
        except BrokenPipeError:  # the reader, e.g. `head`, closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return SOME_FAILED


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _write(text: str, file: TextIO | None = None) -> None:
    tqdm.write(text, file=file or sys.stdout)
    (file or sys.stdout).flush()  # a killed run keeps its rows so far


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # lineterminator="" would leave newlines in file names unquoted
    return line.getvalue().removesuffix("\r\n")


# ---- predict


class Row(NamedTuple):
    """Result for one image: calibrated probabilities and positives if the model has a calibration, else sigmoids."""

    path: str
    scores: dict[str, float] | None  # by label, in the model's order
    positives: list[str] | None
    problem: str | None


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
        raise CommandError("--finding and --attention need --heatmap DIR")
    if output is not None:
        ending = output.suffix.removeprefix(".")
        if ending not in ("csv", "jsonl"):
            raise CommandError(f"--output must end in .csv or .jsonl, got {output.name}")
        if format not in ("table", ending):
            raise CommandError(f"--output {output.name} sets the format; drop --format {format}")
        format = ending
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processes = _launched(device)
    first = processes is None or processes.is_main_process
    paths, problems = find_images(images)
    for problem in problems if first else ():
        _say(f"error: {problem}")
    if not paths:
        raise CommandError("no images found")
    loaded, labels = _load(model, processes.device if processes else device)
    try:
        panels = None if heatmap is None else Panels(loaded, labels, heatmap, finding, attention)
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(error) from error
    name = Path(os.path.normpath(model)).as_posix()  # one spelling for a folder
    if format != "table":  # tell retrained weights apart
        scaling = [loaded.pretrained_cfg.get(key) for key in ("input_size", "mean", "std")]
        name += f" ({zlib.crc32(repr([loaded.calibration, *scaling]).encode(), weights_checksum(loaded)):08x})"
    writer = _Writer(format, name, labels, getattr(loaded.calibration, "thresholds", None))
    left = writer.open(output, paths) if first else []
    failed = bool(problems)
    if first and len(left) < len(paths):
        undrawn = "" if heatmap is None else "; heat maps are drawn for the others only"
        _say(f"{len(paths) - len(left)} of {len(paths)} images are already in {output}{undrawn}")
    if processes is None:
        rows = _rows(loaded, labels, left, panels, batch_size, workers)
    else:
        from accelerate.utils import broadcast_object_list

        [left] = broadcast_object_list([left])
        with processes.split_between_processes(left) as part:
            rows = _together(_rows(loaded, labels, part, panels, batch_size, workers), batch_size)
    for row in tqdm(rows, "scoring", len(left), unit=" images", leave=False, disable=None if first else True):
        failed |= row.problem is not None
        if first and row.problem is not None:
            _say(f"error: {row.problem}")
        if first and row.scores is not None:
            writer.write(row.path, row.scores, row.positives)
    if processes is not None:
        processes.destroy_process_group()
    if not first:
        return DONE
    writer.close()
    if output is not None:
        _say(f"wrote {writer.rows} rows to {output}")
    if not failed:
        return DONE
    return SOME_FAILED if writer.rows or len(left) < len(paths) else NOTHING_DONE


def _launched(device: str) -> Any:
    """Return the state of processes started by torchrun or `accelerate launch`, or None for a single process."""
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        return None
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise CommandError("several processes need accelerate: pip install accelerate") from error
    processes = PartialState(cpu=device == "cpu")
    if processes.num_processes != started:  # else each process would score all images
        raise CommandError(f"cannot use the device {device} in {started} processes")
    return processes


def _together(rows: Iterator[Row], every: int) -> Iterator[Row]:
    """Yield the rows of all processes, gathered after every `every` rows of each."""
    from accelerate.utils import gather_object

    while block := gather_object(list(islice(rows, every))):
        yield from block


def find_images(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Return the unique images named by files, folders and patterns, and messages for what is missing or unreadable.

    Files are taken as given. Folders are searched recursively for image suffixes and DICOM files.
    """
    found: dict[Path, None] = {}
    problems: list[str] = []
    for argument in arguments:
        files: list[Path] = []
        for path in map(Path, [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True))):
            files += sorted(filter(_is_image, _files_below(path, problems))) if path.is_dir() else [path]
        if not files:
            problems.append(f"no images in {argument}" if os.path.isdir(argument) else f"no such file: {argument}")
        found |= dict.fromkeys(files)
    return list(found), problems


def _files_below(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Yield the files below a folder, then those in linked folders; each folder is visited once."""
    folders, seen = [folder], set[str]()
    for top in folders:
        for where, below, names in os.walk(top, onerror=lambda error: problems.append(str(error))):
            if (real := os.path.realpath(where)) in seen:
                below.clear()
                continue
            seen.add(real)
            below.sort()
            folders += [path for name in below if (path := Path(where, name)).is_symlink()]
            yield from (Path(where, name) for name in names)


def _is_image(file: Path) -> bool:
    special = file.exists() and not file.is_file()  # broken links are kept: reading them reports the error
    if special or file.name.startswith(".") or file.name == "DICOMDIR" or file.name.endswith(PANEL_SUFFIX):
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(132))
    except OSError:  # kept: reading it later reports the error
        return True


def _load(name: str, device: Any) -> tuple[Any, list[str]]:
    """Return the model in eval mode and its label names."""
    try:
        source = Path(name) if not is_model(name) and os.path.isdir(name) else name
        model: Any = create_model(source, pretrained=True)
    except Exception as error:  # from timm, the Hub or safetensors
        raise CommandError(f"cannot load the model {name}: {error}") from error
    if model.num_classes == 0:
        raise CommandError(f"the model {name} has no labels")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # raised for unavailable devices
        raise CommandError(f"cannot use the device {device}: {error}") from error
    return model.eval(), list(model.label_names or (f"label_{k}" for k in range(model.num_classes)))


def _rows(
    model: Any, labels: list[str], paths: list[Path], panels: Panels | None, batch_size: int, workers: int
) -> Iterator[Row]:
    calibration = model.calibration
    for path, logits, error in score(model, paths, batch_size=batch_size, workers=workers):
        if logits is None:
            yield Row(str(path), None, None, str(error))
            continue
        probabilities = calibration.probabilities(logits[None])[0] if calibration else logits.sigmoid()
        scores = dict(zip(labels, map(_rounded, probabilities.tolist()), strict=True))
        positives, problem = None, None
        if calibration is not None:
            present = calibration.positives(logits[None])[0].tolist()
            positives = [label for label, positive in zip(labels, present, strict=True) if positive]
        try:
            if panels is not None:
                panels.draw(Path(str(path)), scores, positives or ())
        except (OSError, ValueError) as undrawn:
            problem = str(undrawn)
        yield Row(str(path), scores, positives, problem)


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


class _Writer:
    """Writes rows to standard output, or appends them to the file of an earlier run."""

    def __init__(self, format: str, model: str, labels: list[str], thresholds: tuple[float, ...] | None) -> None:
        self.format, self.model, self.labels = format, model, labels
        self.file: TextIO = sys.stdout
        self.rows = 0
        self.thresholds = dict(zip(labels, map(_rounded, thresholds), strict=True)) if thresholds else None
        self.cells = {f"{label} threshold": str((self.thresholds or {}).get(label, "")) for label in labels}
        self.columns = ["path", "model", *labels, "positives", *self.cells]

    def open(self, output: Path | None, paths: list[Path]) -> list[Path]:
        """Open the file and return the paths without a row in it."""
        done: set[str] = set()
        if output is not None:
            try:
                output.parent.mkdir(parents=True, exist_ok=True)
                self.file = output.open("a", newline="", encoding="utf-8", errors="surrogateescape")
                done = self._cut_to_whole_rows(output)
            except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
                self.close()
                raise CommandError(f"cannot append to {output}: {error}") from error
        if self.format == "csv" and (output is None or output.stat().st_size == 0):
            _write(_csv_line(self.columns), self.file)
        return [path for path in paths if str(path) not in done]

    def _cut_to_whole_rows(self, output: Path) -> set[str]:
        """Return the paths of the rows, and truncate an unfinished last row once all rows match this run."""
        content = output.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        while self.format == "csv" and whole.count(b'"') % 2:  # the newline is part of a file name
            whole = whole[: whole[:-1].rfind(b"\n") + 1]
        lines = io.StringIO(whole.decode("utf-8-sig", "surrogateescape"), newline="")
        if self.format == "csv":
            rows: Iterable[dict[str, Any]] = (reader := csv.DictReader(lines))
            same_labels = reader.fieldnames == self.columns
        else:
            rows = [json.loads(line) for line in lines]
            same_labels = bool(rows) and all(list(row["scores"]) == self.labels for row in rows)
        if content and not same_labels:
            raise ValueError("it has other columns than this model would write; use another --output")
        done = set()
        for row in rows:
            if str(row["model"]).rpartition(" ")[2] != self.model.rpartition(" ")[2]:  # checksums: folders may move
                raise ValueError(f"its rows come from the model {row['model']}, not {self.model}; use another --output")
            done.add(row["path"])
        os.truncate(output, len(whole))
        return done

    def write(self, path: str, scores: dict[str, float], positives: list[str] | None) -> None:
        if self.format == "csv":
            text = _csv_line([path, self.model, *scores.values(), "|".join(positives or ()), *self.cells.values()])
        elif self.format == "jsonl":
            result = {"path": path, "model": self.model, "scores": scores}
            text = json.dumps(result | {"thresholds": self.thresholds, "positives": positives}, allow_nan=False)
        else:
            width, lines = max(map(len, self.labels)), [path]
            for label, value in sorted(scores.items(), key=lambda item: -item[1]):
                mark = "*" if label in (positives or ()) else " "
                lines.append(f"{mark} {label:<{width}}  {value:.3f}  {'#' * round(20 * value)}".rstrip())
            text = "\n".join([*lines, ""])
        _write(text, self.file)
        self.rows += 1

    def close(self) -> None:
        if self.format == "table":
            marked = self.thresholds is not None and self.rows > 0
            _write("\n".join([AT_THRESHOLD] * marked + [NOT_FOR_CLINICAL_USE]))
        if self.file is not sys.stdout:
            self.file.close()


# ---- models and evaluate


def _models(filter: str) -> int:
    names = list_models(filter if any(wildcard in filter for wildcard in "*?[") else f"*{filter}*")
    if not names:
        raise CommandError(f"no model matches {filter!r}")
    width, tagged = max(map(len, names)), list_pretrained()
    for name in names:
        weights = [known for known in tagged if known.split(".")[0] == name]
        _write(f"{name:<{width}}  {', '.join(weights) or 'no published weights'}")
    return DONE


def _evaluate(scores: Path, labels: Path, group: list[str], patients: str | None, format: str) -> int:
    try:
        results = aurocs(scores, labels, group, patients)
    except (OSError, ValueError) as error:
        raise CommandError(error) from error
    if patients is None:
        _say("warning: intervals over images are too narrow if patients have several; pass --patients COLUMN")
    if format == "json":
        _write(json.dumps([row._asdict() for row in results], indent=1, allow_nan=False))
    elif format == "csv":
        _write("\n".join(_csv_line(row) for row in [LabelAuroc._fields, *results]))
    else:
        _write(as_text(results))
    return DONE
