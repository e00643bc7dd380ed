"""Search for a recipe, or compare variants with one recipe over several seeds.

    python -m nih.study nih/study.json --data nih-10k --extra nih-320 --backbone-weights FILE --output runs/study

Run it from `examples/research`. A file with `settings` is a search, one without is a study. Runs train one after the
other, the most important first. Record, scores and weights of each run go to OUTPUT/runs. `results.json` and
`scores.npz` hold all records and scores, and are updated after each run. Run the same command again to resume: finished
runs are skipped. To train in parallel, start one command for each seed with its own --output.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from causalcxr.data.nih_tables import NIHTables, read_nih_tables
from records import kept, write_json

from .films import fingerprint, parts, read_pixels, training_films
from .pointing import marked_findings
from .training import Data, Setting, train
from .variants import open_run

SMALL = {"backbone": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 8}
FEW = 48  # films of each part in a test run


def jobs_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the requested runs, ordered by setting, group of variants, and seed. Only a study scores test films."""
    config = json.loads(args.config.read_text())
    over = SMALL if args.small else {}
    jobs = []
    for name, setting in config.get("settings", {"": {}}).items():
        common = {
            "setting_name": name,
            "score_test": "settings" not in config,
            "setting": dataclasses.asdict(Setting(**{**config["setting"], **setting, **over})),
        }
        for group in config["groups"]:
            for seed in args.seeds or config["seeds"]:
                for variant in group:
                    full_name = f"{name}-{variant}-seed{seed}".removeprefix("-")
                    jobs.append({"name": full_name, "variant": variant, "seed": seed, **common})
    return jobs


def load(args: argparse.Namespace, tables: NIHTables, rows: dict[str, npt.NDArray[np.int64]]) -> Data:
    """Load all films to the device."""
    pixels = read_pixels(args.data)
    training = [(pixels, tables, rows["train"])]
    if args.extra:
        extra = read_nih_tables(args.extra)
        train_val = np.flatnonzero(extra.official_split == "train_val")[: FEW if args.small else None]
        training.append((read_pixels(args.extra), extra, train_val))
    val, test = (torch.from_numpy(pixels[rows[part]]).to(args.device) for part in ("val", "test"))
    return Data(
        training=training_films(training, args.device),
        val=val,
        val_targets=tables.targets[rows["val"]],
        test=test,
        marked=marked_findings(tables.select(rows["test"])),
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="JSON file, such as nih/study.json")
    parser.add_argument("--data", type=Path, required=True, help="folder of films in the layout of the release")
    parser.add_argument("--extra", type=Path, help="more films, only for training")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the config")
    parser.add_argument("--backbone-weights", default="", help="file of backbone weights; default: none")
    parser.add_argument("--start", default="", help="file of a run's weights to start from; default: none")
    parser.add_argument("--teachers", type=Path, nargs="+", default=[], help="weights of runs to learn from")
    parser.add_argument("--small", action="store_true", help="test run: few films, one epoch, a tiny backbone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    jobs = jobs_of(args)
    torch.set_float32_matmul_precision("high")
    tables = read_nih_tables(args.data)
    rows = parts(tables, FEW if args.small else None)
    data = load(args, tables, rows)
    files = {"backbone_weights": "" if args.small else args.backbone_weights, "start": args.start}
    about: dict[str, Any] = {
        "mode": "study" if jobs[0]["score_test"] else "search",
        "sources": [source.name for source in (args.data, args.extra) if source],
        "films": {part: fingerprint([tables.names[row] for row in rows[part]]) for part in ("val", "test")},
        **{name: checksum(Path(path)) for name, path in files.items() if path},
    }
    if args.teachers:
        about["teachers"] = [checksum(path) for path in args.teachers]
    teachers = [open_run(path).to(args.device, memory_format=torch.channels_last) for path in args.teachers]
    (args.output / "runs").mkdir(parents=True, exist_ok=True)
    records, scores = [], {f"{part}_films": np.array(of_part) for part, of_part in about["films"].items()}
    for job in jobs:
        path = str(args.output / "runs" / job["name"])
        options = {"device": args.device, "weights": files["backbone_weights"], "start": args.start, "output": path}
        record = kept(
            Path(f"{path}.json"),
            about | {"setting": job["setting"]},
            functools.partial(train, job, data, teachers=teachers, **options),
            args.device,
        )
        records.append(record)
        with np.load(f"{path}.npz") as of_run:
            scores |= {f"{job['name']}/{part}": of_run[part] for part in of_run.files}
        write_json(args.output / "results.json", about | {"runs": records})
        np.savez_compressed(args.output / "scores.npz", **scores)
        print(f"{job['name']}: {record.get('val_auroc')} in epoch {record.get('best_epoch')}", flush=True)


if __name__ == "__main__":
    main()
