"""Run the parts one after the other, each in a process with a time limit, and print a table.

    PYTHONPATH=$PWD python examples/research/gpu/run.py --output runs/gpu

The README beside this file says what each part does.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

RESEARCH = Path(__file__).resolve().parents[1]
REPOSITORY = RESEARCH.parents[1]

# Name of the part: what Python is to run, and seconds after which it is killed. A part takes the arguments of
# `recording.arguments` and writes NAME.json; one that is not in DEFAULT has to be asked for.
PARTS: dict[str, tuple[tuple[str, ...], float]] = {
    "correct": (("-m", "gpu.correct"), 90),
    "loop": (("-m", "gpu.loop"), 60),
    "speed": (("-m", "gpu.speed"), 120),
    "data": (("-m", "gpu.data"), 30),
}
DEFAULT = ("correct", "loop", "speed", "data")
SMALL_FACTOR = 4  # limits are set for a GPU and 16 cores; the trial on two busy cores gets longer


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        *("--parts", "--part"),
        nargs="+",
        type=_part,
        default=[_part(name) for name in DEFAULT],
        metavar="PART[=SECONDS]",
        help=f"{', '.join(PARTS)}; each with another time limit where wanted",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="shrink all sizes: a trial of the program, no measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="", help="commit of the code, where there is no git")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    options = [f"--output={args.output.resolve()}", f"--device={args.device}", f"--seed={args.seed}"]
    options += [f"--commit={args.commit}"] * bool(args.commit) + ["--small"] * args.small
    results = []
    with open(args.output / "run.log", "a") as log:
        for part, seconds in args.parts:
            command = PARTS[part][0]
            seconds *= SMALL_FACTOR if args.small else 1
            result = run_part(part, [sys.executable, *command, *options], seconds, args.output, log)
            print(f"{part}: {result['outcome']}, {result['wall_seconds']:.0f} s", flush=True)
            results.append(result)
        table = "\n\n".join(as_table(result) for result in results)
        print(table, file=log)
    print(f"\n{table}", flush=True)
    return int(any(result["outcome"] != "ok" for result in results))


def _part(text: str) -> tuple[str, float]:
    """Read the name of a part, with or without a time limit of its own."""
    name, _, seconds = text.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {name!r}; there are {', '.join(PARTS)}")
    return name, float(seconds or PARTS[name][1])


def run_part(part: str, command: list[str], seconds: float, output: Path, log: IO[str]) -> dict[str, Any]:
    """Run one part, kill it with all its children when its time is up, and return what it wrote."""
    path = output / f"{part}.json"
    path.unlink(missing_ok=True)  # of an earlier run
    begin = log.tell()
    started = time.time()
    process = subprocess.Popen(
        [*command, f"--until={started + seconds}"],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env=_environment(),
        start_new_session=True,
    )
    try:
        status = process.wait(timeout=seconds)
        outcome = "ok" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        outcome = f"killed after {seconds:g} s"
    finally:
        _kill_group(process)
    log.seek(0, os.SEEK_END)
    result = _read(path)
    if not result:
        result = {"part": part, "rows": []}
        outcome = outcome if outcome != "ok" else "wrote nothing"
    result |= {"outcome": outcome, "wall_seconds": round(time.time() - started, 1)}
    if outcome != "ok":
        result["log"] = _tail(Path(log.name), begin)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)
    return result


def _environment() -> dict[str, str]:
    """Put this package and the library of this checkout where a part finds them."""
    given = os.environ.get("PYTHONPATH", "")
    folders = [str(RESEARCH), str(REPOSITORY), *([given] if given else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _tail(path: Path, begin: int, characters: int = 3000) -> str:
    with open(path, errors="replace") as log:
        log.seek(begin)
        return log.read()[-characters:]


def as_table(result: dict[str, Any]) -> str:
    """Return the rows of a part as lines of text."""
    head = f"{result['part']}: {result['outcome']}, {result['wall_seconds']:.0f} s"
    if "device" in result:
        head += f" | {result['device']}, torch {result['torch']}, commit {result['commit'][:12]}"
    lines = [head]
    for row in result["rows"]:
        if row.get("hidden"):
            continue
        verdict = {True: "met", False: "MISSED"}.get(row.get("met"), "")
        goal = f" (goal {row['goal']}{': ' if verdict else ''}{verdict})" if row.get("goal") else ""
        lines.append(f"  {row['name']}: {row['shown']}{goal}")
    if result.get("now"):
        lines.append(f"  stopped while at: {result['now']}")
    if not result["rows"] and "log" in result:
        lines += [f"  | {line}" for line in result["log"].strip().splitlines()[-8:]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
