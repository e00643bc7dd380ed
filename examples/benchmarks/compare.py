"""Measure the library against plain ways to do the same, and print what each costs.

    python examples/benchmarks/compare.py --json docs/results/benchmarks/compare_cpu.json
    python examples/benchmarks/compare.py --device cuda --json docs/results/benchmarks/compare_cuda.json

Both sides run in one process, in turns; a figure is the median over rounds, with quartiles. (Imports run in processes
of their own, and scikit-learn's bootstrap runs once beside five of ours.) Where both sides compute
the same, they are checked to agree before they are timed. Finished rows are kept in the JSON file: a run that was
stopped goes on where it was, `--again ROW` measures a row anew. Needs the extra `[train]`, and a quarter to half an
hour on two cores, most of it for the full-size models and for scikit-learn's bootstrap.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from causalcxr.metrics import bootstrap_auroc
from comparing import Result, Rows, agree, compared
from layer_rows import acmix, attention, intervention
from measuring import environment, once, read_results, say, write_results
from model_rows import evaluation, published, training
from reading import reading_sides
from yardsticks import loop_over_resamples


def bootstrap(device: str) -> Rows:
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(2797, size=25596))
    targets = (rng.random((25596, 14)) < np.geomspace(0.002, 0.2, 14)).astype(np.float64)
    scores = (rng.normal(size=targets.shape) + targets).round(2)  # with ties
    few = np.array(list(itertools.islice(loop_over_resamples(scores, targets, groups, 5), 5)))
    agree(torch.from_numpy(few), torch.from_numpy(bootstrap_auroc(scores, targets, groups, n_resamples=5).resamples))
    loop = tqdm(loop_over_resamples(scores, targets, groups, 2000), total=2000, desc="scikit-learn", mininterval=5)
    theirs = once(lambda: list(loop))
    ours = [once(lambda: bootstrap_auroc(scores, targets, groups)) for _ in range(5)]
    ratios = theirs / np.array(ours)
    yield (
        "`bootstrap_auroc`, 25,596 images, 14 labels, 2,000 resamples of 2,797 patients | scikit-learn, in a loop",
        {
            "faster": True,
            "ratio": round(float(np.median(ratios)), 2),
            "quartiles": [round(float(q), 2) for q in np.quantile(ratios, [0.25, 0.75])],
            "must_reach": 50.0,
            "seconds": {"ours": float(np.median(ours)), "theirs": theirs},
            "rounds": 5,
        },
    )


def importing(device: str) -> Rows:
    def start(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    sides = {"ours": partial(start, "causalcxr"), "theirs": partial(start, "timm")}
    yield (
        "`import causalcxr`, a new process each time | `import timm`",
        compared(sides, "cpu", faster=False, time=1.05, rounds=12),
    )


def reading(device: str, release: Path) -> Rows:
    with reading_sides(release) as (title, sides):
        yield title, compared(sides, "cpu", faster=True, time=3.0, rounds=8)


ROWS: dict[str, Callable[..., Rows]] = {
    "acmix": acmix,
    "attention": attention,
    "intervention": intervention,
    "training": training,
    "evaluation": evaluation,
    "published": published,
    "bootstrap": bootstrap,
    "importing": importing,
    "reading": reading,
}


def table(results: dict[str, Result]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| what, and compared with | time | ratio (quartiles) | must reach | memory: tensors, resident | must reach |",
        "|---|---|---|---|---|---|",
    ]
    for title, row in sorted(results.items(), key=lambda item: list(ROWS).index(item[1]["row"])):
        what, against = title.split(" | ")
        word = "times less" if row["faster"] else "times at most"
        low, high = row["quartiles"]
        memory = ", ".join(f"{ratio:.3g}" for ratio in row.get("memory_ratio", {}).values())
        cells = [
            f"{what}; {against}",
            " against ".join(shown(row["seconds"][side]) for side in ("ours", "theirs")),
            f"**{row['ratio']:.3g}** ({low:.3g}, {high:.3g})",
            f"{row['must_reach']:g} {word}",
            memory,
            f"{row['memory_must_reach']:g} {word}" if memory else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--again", nargs="+", choices=ROWS, default=[], help="rows to measure anew")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--release", type=Path, help="folder of 1024 px images of the NIH release, for the row `reading`"
    )
    parser.add_argument("--json", type=Path, help="keep the results there")
    args = parser.parse_args(argv)
    if len(args.rows) > 1:
        for name in args.rows:  # in processes of their own, so that none inherits the heap of another
            again = ["--again", name] if name in args.again else []
            command = [sys.executable, __file__, "--rows", name, *again, "--device", args.device]
            for option, value in (("--release", args.release), ("--json", args.json)):
                command += [option, str(value)] if value else []
            subprocess.run(command, check=True, stdout=None if args.json is None else subprocess.DEVNULL)
        if args.json:
            print(table(read_results(args.json)))
        return
    (name,) = args.rows
    results = read_results(args.json)
    if name not in args.again and any(row["row"] == name for row in results.values()):
        say(f"{name}: measured before")
    elif name == "reading" and args.release is None:
        say(f"{name}: left out, it needs --release")
    else:
        say(f"{name} ...")
        torch.manual_seed(0)
        options = {"release": args.release} if name == "reading" else {}
        results = {title: row for title, row in results.items() if row["row"] != name}
        for title, row in ROWS[name](args.device, **options):
            results[title] = {"row": name, "seed": 0, **row, "environment": environment(args.device)}
        write_results(args.json, args.device, results)
    print(table(results))


if __name__ == "__main__":
    main()
