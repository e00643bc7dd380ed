"""Search for a recipe, or compare variants by one recipe over several seeds, as far as the time allows.

    python -m nih.study --search --data nih-10k.zip --extra nih-320.zip --backbone-weights FILE \
        --output runs/search --limit 130
    python -m nih.study --study --setting runs/search/chosen.json --data nih-10k.zip \
        --extra nih-320.zip --backbone-weights FILE --output runs/study --limit 300

Run it from `examples/research`. Several runs train side by side, the most important first. The output folder gets
`results.json`, `scores.npz`, after a search `chosen.json` and after a study `weights-VARIANT.safetensors`. All are
written anew when a run ends. Run the same command again to go on: finished runs are not repeated.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import causalcxr

from .films import fingerprint, keep_a_few, parts, read_pixels, read_tables
from .training import Setting
from .variants import VARIANTS
from .worker import replace, serve

HERE = Path(__file__).parent
CANVAS = 320  # pixels of the films that views are drawn from
SMALL = {"backbone": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 8}
SMALL_CANVAS, FEW = 96, 48
MARGIN = 5.0  # seconds before the limit at which runs have to be over
WEIGHT_FILES = 5


def jobs_of_search(config: dict[str, Any], over: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs of a search, setting by setting."""
    return [
        {
            "name": f"{name}-{variant}-seed{seed}",
            "setting_name": name,
            "variant": variant,
            "seed": seed,
            "score_test": False,
            "setting": dataclasses.asdict(Setting(**{**config["base"], **setting, **over})),
        }
        for name, setting in config["settings"].items()
        for seed in config["seeds"]
        for variant in config["variants"]
    ]


def jobs_of_study(config: dict[str, Any], chosen: dict[str, Any], over: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs of a study: of each group of variants all seeds, then the next group."""
    setting = dataclasses.asdict(Setting(**{**chosen, **config["setting"], **over}))
    common = {"setting_name": "", "score_test": True, "setting": setting}
    return [
        {"name": f"{variant}-seed{seed}", "variant": variant, "seed": seed, **common}
        for group in config["groups"]
        for seed in config["seeds"]
        for variant in group
    ]


def cost(job: dict[str, Any]) -> float:
    """Return about how long a run takes, in epochs of the plain model at 192 px."""
    variant, setting = VARIANTS[job["variant"]], job["setting"]
    factor = 2.8 if variant.objective == "agreement" else 1.25 if variant.causal else 1.0
    return setting["epochs"] * (setting["image_size"] / 192) ** 2 * factor


class Worker:
    """A process and what it is doing."""

    def __init__(self, plan: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, plan), daemon=True)
        self.process.start()
        other.close()
        self.job: dict[str, Any] | None = None
        self.idle = False
        self.since = time.time()

    def start(self, job: dict[str, Any]) -> None:
        self.job, self.idle, self.since = job, False, time.time()
        self.connection.send(job)


class Scheduler:
    """Gives jobs to workers while they can end before the limit."""

    def __init__(self, plan: dict[str, Any], jobs: list[dict[str, Any]], workers: int, output: "Output") -> None:
        self.plan, self.pending, self.output = plan, list(jobs), output
        self.rates: list[float] = []  # seconds of a unit of cost, as seen last
        self.not_started: list[str] = []
        self.failed: dict[str, str] = {}
        self.starts = 0
        self.workers = [self._new_worker() for _ in range(min(workers, len(jobs)))]

    def _new_worker(self) -> Worker:
        self.starts += 1
        return Worker(self.plan)

    def run(self) -> None:
        """Return when nothing is left to do, or at the limit."""
        while self.workers:
            if time.time() > self.plan["deadline"] + MARGIN:
                say("the limit is reached")
                break
            for worker in [w for w in self.workers if w.idle]:
                self._give(worker)
            ready = wait([worker.connection for worker in self.workers], timeout=0.5)
            for worker in [w for w in self.workers if w.connection in ready]:
                self._hear(worker)
        for worker in self.workers:
            self._end(worker)
        self.not_started += [job["name"] for job in self.pending]
        self.output.collect(self.failed, self.not_started)

    def _give(self, worker: Worker) -> None:
        while self.pending:
            job = self.pending.pop(0)
            expected = cost(job) * float(np.mean(self.rates)) * 1.05 + 2 if self.rates else 0.0
            left = self.plan["deadline"] - time.time()
            if expected < left:
                say(f"{job['name']} starts, about {expected:.0f} s of {left:.0f} s")
                worker.start(job)
                return
            say(f"{job['name']} is left out: about {expected:.0f} s, but {left:.0f} s are left")
            self.not_started.append(job["name"])
        self._end(worker)
        self.workers.remove(worker)

    def _hear(self, worker: Worker) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            kind, content = "failed", [worker.job["name"] if worker.job else "", "the process ended by itself"]
        if kind == "progress":
            now = time.time()
            if content[0]["epoch"] > 1:  # the first one warms up
                self.rates = [
                    *self.rates[-11:],
                    (now - worker.since) * worker.job["setting"]["epochs"] / cost(worker.job),
                ]
            worker.since = now
            say(json.dumps(content[0]))
        elif kind == "failed":
            name, problem = content
            say(f"{name or 'a worker'} failed:\n{problem}")
            self.failed[name or "start"] = problem
            self._end(worker)
            self.workers.remove(worker)
            # One that failed while it loaded the films would do so again.
            if name and self.pending and self.starts < 12:
                self.workers.append(self._new_worker())
            self.output.collect(self.failed, self.not_started)
        else:
            worker.idle, worker.job = True, None
            if kind == "done":
                say(f"{content[0]} is done")
                self.output.collect(self.failed, self.not_started)

    @staticmethod
    def _end(worker: Worker) -> None:
        try:
            worker.connection.send(None)
            worker.process.join(timeout=0 if worker.job else 2)
        except OSError:
            pass
        if worker.process.is_alive():
            worker.process.terminate()
        worker.connection.close()


class Output:
    """The few files that come of all runs."""

    def __init__(self, folder: Path, work: Path, jobs: list[dict[str, Any]], about: dict[str, Any], names: Any) -> None:
        self.folder, self.work, self.jobs, self.about, self.names = folder, work, jobs, about, names
        self.started = time.time()

    def records(self) -> list[dict[str, Any]]:
        """Return the records that runs of these settings left."""
        found = []
        for job in self.jobs:
            path = self.work / f"{job['name']}.json"
            if path.exists():
                record = json.loads(path.read_text())
                if record["setting"] == job["setting"]:
                    found.append(record)
        return found

    def finished(self) -> set[str]:
        """Return the names of the runs that need not be repeated."""
        return {record["name"] for record in self.records() if record["finished"]}

    def collect(self, failed: dict[str, str], not_started: list[str]) -> None:
        """Write everything."""
        records = self.records()
        seconds = round(time.time() - self.started, 1)
        seen = sum(len(record["curve"]) * record["films"] for record in records if record["ended"] > self.started)
        about = self.about | {"seconds": seconds, "films_per_second": round(seen / max(seconds, 1))}
        content = about | {"runs": records, "failed": failed, "not_started": not_started}
        replace(self.folder / "results.json", json.dumps(content, indent=1) + "\n")
        done = [record for record in records if record["finished"]]
        scores = {f"{part}_films": np.array(fingerprint(names)) for part, names in self.names.items()}
        for record in done:
            with np.load(self.work / f"{record['name']}.npz") as of_run:
                scores |= {f"{record['name']}/{part}": of_run[part] for part in of_run.files}
        partial = self.folder / "scores.partial.npz"
        np.savez_compressed(partial, **scores)
        os.replace(partial, self.folder / "scores.npz")
        if self.about["mode"] == "search":
            replace(self.folder / "chosen.json", json.dumps(choose(done), indent=1) + "\n")
        else:
            self._weights(done)

    def _weights(self, done: list[dict[str, Any]]) -> None:
        """Copy the weights of the best seed by validation of each of the first variants."""
        variants = list(dict.fromkeys(job["variant"] for job in self.jobs))[:WEIGHT_FILES]
        for variant in variants:
            runs = [record for record in done if record["variant"] == variant]
            if runs:
                best = max(runs, key=lambda record: record["val_auroc"])
                shutil.copyfile(
                    self.work / f"{best['name']}.safetensors", self.folder / f"weights-{variant}.safetensors"
                )


def choose(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the setting with the highest validation AUROC, the mean over its variants, of those with all of them."""
    by_setting: dict[str, dict[str, dict[str, Any]]] = {}
    for record in done:
        by_setting.setdefault(record["setting_name"], {})[f"{record['variant']}-seed{record['seed']}"] = record
    most = max(map(len, by_setting.values()), default=0)
    table = {
        name: {run: record["val_auroc"] for run, record in runs.items()}
        for name, runs in by_setting.items()
        if len(runs) == most
    }
    if not table:
        return {"name": None, "setting": None, "table": {}}
    best = max(table, key=lambda name: float(np.mean(list(table[name].values()))))
    return {"name": best, "setting": next(iter(by_setting[best].values()))["setting"], "table": table}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def commit() -> str:
    """Return the commit of the code, with `-dirty` where files differ, or an empty text where that is not known."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions(device: str) -> dict[str, str]:
    """Return what the figures were made with."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    packages = {module.__name__: module.__version__ for module in (torch, timm, np, causalcxr)}
    return {"device": name, "python": platform.python_version(), **packages}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--search", dest="mode", action="store_const", const="search", help="try settings")
    mode.add_argument("--study", dest="mode", action="store_const", const="study", help="compare variants")
    parser.add_argument("--data", type=Path, required=True, help="films that pack.py wrote, or a folder of the release")
    parser.add_argument("--extra", type=Path, help="more films, for training alone")
    parser.add_argument("--output", type=Path, required=True, help="folder of what comes of it")
    parser.add_argument("--but", type=Path, nargs="+", default=[], help="outputs whose finished runs are left out")
    parser.add_argument("--work", type=Path, help="folder of single runs; default: OUTPUT-runs")
    parser.add_argument("--config", type=Path, help="default: search.json or study.json beside this file")
    parser.add_argument("--setting", type=Path, help="chosen.json of a search, for --study")
    parser.add_argument("--backbone-weights", default="", help="file of the backbone's weights; default: none")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for everything; default: no limit")
    parser.add_argument("--jobs", type=int, default=4, help="runs side by side; default: 4")
    parser.add_argument("--epochs", type=int, help="in place of the setting's")
    parser.add_argument("--image-size", type=int, help="in place of the setting's")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="only these")
    parser.add_argument("--settings", nargs="+", help="only these of a search")
    parser.add_argument("--small", action="store_true", help="a trial: few films, one epoch, a tiny backbone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--commit", help="of the code, where it is not run from a checkout")
    return parser.parse_args(argv)


def jobs_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the runs that the arguments ask for, most important first."""
    config = json.loads((args.config or HERE / f"{args.mode}.json").read_text())
    over = {name: value for name in ("epochs", "image_size") if (value := getattr(args, name)) is not None}
    over |= SMALL if args.small else {}
    if args.mode == "search":
        jobs = jobs_of_search(config, over)
    else:
        chosen = json.loads(args.setting.read_text())["setting"] if args.setting else {}
        jobs = jobs_of_study(config, chosen or {}, over)
    for name, key in (("seeds", "seed"), ("variants", "variant"), ("settings", "setting_name")):
        wanted = getattr(args, name)
        jobs = [job for job in jobs if not wanted or job[key] in wanted]
    elsewhere = [run for folder in args.but for run in json.loads((folder / "results.json").read_text())["runs"]]
    done = [(run["name"], run["setting"]) for run in elsewhere if run["finished"]]
    return [job for job in jobs if (job["name"], job["setting"]) not in done]


def main(argv: list[str] | None = None) -> None:
    started = time.time()
    args = parse(argv)
    work = args.work or args.output.with_name(args.output.name + "-runs")
    for folder in (args.output, work):
        folder.mkdir(parents=True, exist_ok=True)
    sources = [args.data, *([args.extra] if args.extra else [])]
    pixels = []
    for number, source in enumerate(sources):
        pixels.append(str(work / f"films-{number}.npy"))
        np.save(pixels[-1], read_pixels(source))
    tables, few = read_tables(args.data), FEW if args.small else 0
    rows = keep_a_few(parts(tables), few) if few else parts(tables)
    say(f"films are read, {time.time() - started:.1f} s; " + ", ".join(f"{len(r)} {part}" for part, r in rows.items()))
    jobs = jobs_of(args)
    about = {
        "mode": args.mode,
        "limit": None if args.limit == float("inf") else args.limit,
        "side_by_side": args.jobs,
        "sources": [source.name for source in sources],
        "commit": args.commit or commit(),
        "versions": versions(args.device),
    }
    names = {part: [tables.names[row] for row in rows[part]] for part in ("val", "test")}
    output = Output(args.output, work, jobs, about, names)
    finished = output.finished()
    plan = {
        "sources": [str(source) for source in sources],
        "pixels": pixels,
        "few": few,
        "canvas": SMALL_CANVAS if args.small else CANVAS,
        "device": args.device,
        "weights": "" if args.small else args.backbone_weights,
        "work": str(work),
        "deadline": started + args.limit - MARGIN,
        "threads": max((os.cpu_count() or 1) // args.jobs, 1),
    }
    Scheduler(plan, [job for job in jobs if job["name"] not in finished], args.jobs, output).run()
    for record in output.records():
        say(f"{record['name']}: {record.get('val_auroc')} in epoch {record.get('best_epoch')}, {record['seconds']} s")
    say(f"{len(output.finished())} of {len(jobs)} runs are finished, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
