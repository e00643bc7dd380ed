"""Search for a recipe, or compare variants with one recipe over several seeds, within a time limit.

    python -m nih.study --study --data nih-10k.zip --extra nih-320.zip --backbone-weights FILE --output runs/study

Run it from `examples/research`. Several runs train in parallel, the most important first. Record, scores and weights of
each run go to OUTPUT/runs. `results.json` and `scores.npz` hold all records and scores, and are updated after each run.
Run the same command again to resume: finished runs are skipped. What is left to train needs the same commit and
versions. A failed run cancels those that have not started.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from records import commit, versions, write_json

from .films import fingerprint, parts, read_pixels, read_tables, training_films
from .pointing import marked_findings
from .training import Data, Setting, train

HERE = Path(__file__).parent
SMALL = {"backbone": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 8}
FEW = 48  # films of each part in a test run
SAME = ("mode", "sources", "films", "backbone_weights", "start")  # of all runs of an output


def jobs_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the requested runs, most important first.

    They are ordered by setting, group of variants, and seed. Only a study scores test films.
    """
    config = json.loads((args.config or HERE / f"{args.mode}.json").read_text())
    over = SMALL if args.small else {}
    jobs = []
    for name, setting in config.get("settings", {"": {}}).items():
        common = {
            "setting_name": name,
            "score_test": args.mode == "study",
            "setting": dataclasses.asdict(Setting(**{**config["setting"], **setting, **over})),
        }
        for group in config["groups"]:
            for seed in config["seeds"]:
                for variant in group:
                    full_name = f"{name}-{variant}-seed{seed}".removeprefix("-")
                    jobs.append({"name": full_name, "variant": variant, "seed": seed, **common})
    elsewhere = [run for folder in args.but for run in json.loads((folder / "results.json").read_text())["runs"]]
    done = [(run["name"], run["setting"]) for run in elsewhere if run["finished"]]
    return [job for job in jobs if (job["name"], job["setting"]) not in done]


def checksum(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load(args: argparse.Namespace) -> Data:
    """Load all films to the device."""
    tables, pixels = read_tables(args.data), read_pixels(args.data)
    few = FEW if args.small else None
    rows = parts(tables, few)
    training = [(pixels, tables, rows["train"])]
    if args.extra:
        extra = read_tables(args.extra)
        training.append((read_pixels(args.extra), extra, np.flatnonzero(extra.official_split[:few] == "train_val")))
    val, test = (torch.from_numpy(pixels[rows[part]]).to(args.device) for part in ("val", "test"))
    return Data(
        training=training_films(training, args.device),
        val=val,
        val_targets=tables.targets[rows["val"]],
        test=test,
        marked=marked_findings(tables.select(rows["test"])),
    )


SHARED: dict[str, Any] = {}  # state of a worker process: films and whatever its runs share


def end_with_parent() -> None:
    """End this worker process when its parent dies, even if it was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def start(args: argparse.Namespace, deadline: float) -> None:
    """Initialise a worker process."""
    end_with_parent()
    torch.set_num_threads(max((os.cpu_count() or 1) // args.jobs, 1))
    torch.set_float32_matmul_precision("high")
    SHARED.update(args=args, deadline=deadline, data=load(args))


def carry_out(job: dict[str, Any]) -> None:
    """Train and save one run, if there is time left."""
    args, deadline = SHARED["args"], SHARED["deadline"]
    if time.time() > deadline:
        return
    path = str(args.output / "runs" / job["name"])
    weights = "" if args.small else args.backbone_weights
    options = {"device": args.device, "weights": weights, "start": args.start, "deadline": deadline}
    record, scores = train(job, SHARED["data"], **options, weights_to=Path(f"{path}.safetensors"))
    np.savez(f"{path}.npz", **scores)
    write_json(Path(f"{path}.json"), record)  # last, so that the other files exist


def records(output: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the saved records of the jobs, if their settings match."""
    paths = [output / "runs" / f"{job['name']}.json" for job in jobs]
    found = [json.loads(path.read_text()) if path.exists() else {} for path in paths]
    return [record for record, job in zip(found, jobs, strict=True) if record.get("setting") == job["setting"]]


def resumed(output: Path, about: dict[str, Any], *, left: bool) -> dict[str, Any]:
    """Return the metadata of an output after comparing it with what its runs recorded. `left`: whether to train more.

    If nothing is left, it stays as recorded.
    """
    if not (output / "results.json").exists() or not any(output.glob("runs/*.json")):
        return about
    then = json.loads((output / "results.json").read_text())
    same = (*SAME, "commit", "versions") if left else SAME
    if other := [f"{key} {then.get(key, 'none')}" for key in same if then.get(key) != about.get(key)]:
        raise SystemExit(f"{output} was made with {', '.join(other)}: use the same, or another --output")
    return about if left else {key: value for key, value in then.items() if key != "runs"}


def collect(output: Path, jobs: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write the records and scores of all runs."""
    runs = records(output, jobs)
    write_json(output / "results.json", about | {"runs": runs})
    scores: dict[str, Any] = {f"{part}_films": np.array(of_part) for part, of_part in about["films"].items()}
    for name in (run["name"] for run in runs if run["finished"]):
        with np.load(output / "runs" / f"{name}.npz") as of_run:
            scores |= {f"{name}/{part}": of_run[part] for part in of_run.files}
    np.savez_compressed(output / "scores.npz", **scores)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--search", dest="mode", action="store_const", const="search", help="try settings")
    mode.add_argument("--study", dest="mode", action="store_const", const="study", help="compare variants")
    parser.add_argument("--data", type=Path, required=True, help="films packed by pack.py, or a folder of the release")
    parser.add_argument("--extra", type=Path, help="more films, only for training")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--but", type=Path, nargs="+", default=[], help="outputs whose finished runs are skipped")
    parser.add_argument("--config", type=Path, help="default: search.json or study.json next to this file")
    parser.add_argument("--backbone-weights", default="", help="file of backbone weights; default: none")
    parser.add_argument("--start", default="", help="file of a run's weights to start from; default: none")
    parser.add_argument("--limit", type=float, help="seconds after which no training starts; default: none")
    parser.add_argument("--jobs", type=int, default=4, help="parallel runs; default: 4")
    parser.add_argument("--small", action="store_true", help="test run: few films, one epoch, a tiny backbone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--commit", help="commit of the code, if not run from a checkout")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    started = time.time()
    args = parse(argv)
    jobs, tables = jobs_of(args), read_tables(args.data)
    rows = parts(tables, FEW if args.small else None)
    about = {
        "mode": args.mode,
        "limit": args.limit,
        "side_by_side": args.jobs,
        "sources": [source.name for source in (args.data, args.extra) if source],
        "films": {part: fingerprint([tables.names[row] for row in rows[part]]) for part in ("val", "test")},
        **{key: checksum(path) for key in ("backbone_weights", "start") if (path := getattr(args, key))},
        "commit": args.commit or commit(),
        "versions": versions(args.device),
    }
    (args.output / "runs").mkdir(parents=True, exist_ok=True)
    finished = {record["name"] for record in records(args.output, jobs) if record["finished"]}
    left = [job for job in jobs if job["name"] not in finished]
    about = resumed(args.output, about, left=bool(left))
    collect(args.output, jobs, about)
    deadline = float("inf") if args.limit is None else started + args.limit
    pool = ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), start, (args, deadline))
    try:
        for run in as_completed([pool.submit(carry_out, job) for job in left]):
            run.result()
            collect(args.output, jobs, about)
    finally:
        pool.shutdown(cancel_futures=True)  # waits for running trainings
        if left:
            collect(args.output, jobs, about | {"seconds": round(time.time() - started, 1)})
    found = records(args.output, jobs)
    for record in found:
        print(f"{record['name']}: {record.get('val_auroc')} in epoch {record.get('best_epoch')}, {record['seconds']} s")
    print(f"{sum(record['finished'] for record in found)} of {len(jobs)} runs are finished")


if __name__ == "__main__":
    main()
