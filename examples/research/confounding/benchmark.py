"""Train with several methods on confounded radiographs, and measure how much each relies on the confounder.

    python -m confounding.benchmark confounding/studies/small.json --output runs/confounding

A study is a JSON file. `training` holds the options of all runs, `experiments` lists images, confounders and
correlations, and `methods` and `seeds` define the runs on each. Every experiment also has a reference: plain training
without an association. Each run is a file in OUTPUT. Run the same command again to resume.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from causalcxr.bench import as_dict, evaluate
from records import kept, publish

from .data import confound, read
from .methods import METHODS
from .report import markdown, plot
from .representation import representation
from .training import Training, train


class Run(NamedTuple):
    """Data and method of one model."""

    images: str
    confounder: str
    correlation: float
    method: str
    trained_at: float
    seed: int

    @property
    def name(self) -> str:
        images = self.images.replace(":", "")
        return f"{images}-{self.confounder}-{self.correlation:g}-{self.method}-at{self.trained_at:g}-seed{self.seed}"


def runs_of(study: dict[str, Any]) -> Iterator[Run]:
    """Yield all runs seed by seed, so that a study stopped early has all methods of the first seeds."""
    for seed in study["seeds"]:
        for experiment in study["experiments"]:
            for correlation in experiment["correlations"]:
                given = (experiment["images"], experiment["confounder"], correlation)
                yield Run(*given, "plain", 0.5, seed)
                for method in experiment.get("methods", study["methods"]):
                    yield Run(*given, method, correlation, seed)


def carry_out(run: Run, config: Training, data: Path | None) -> dict[str, Any]:
    """Train and measure one model."""
    radiographs = _read(run.images, data, config.image_size)
    parts = confound(radiographs, run.confounder, run.correlation, run.trained_at, run.seed)
    model = train(METHODS[run.method], parts, config, run.seed)
    result = as_dict(evaluate(model, parts.tests))
    if hasattr(model, "forward_causal"):
        result |= representation(model, parts.tests["none"])
    return run._asdict() | {"result": result, "images_trained_on": len(parts.train)}


_read = functools.lru_cache(maxsize=2)(read)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="JSON file, e.g. from confounding/studies")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--data", type=Path, help="folder in the layout of the NIH release or of pneumonia")
    parser.add_argument("--backbone-weights", default="", help="file, or name of a causal model with weights")
    parser.add_argument("--json", type=Path, help="write all runs to this file, and the tables next to it")
    parser.add_argument("--plot", type=Path, help="plot the reversed tests to this file")
    args = parser.parse_args(argv)
    study = json.loads(args.study.read_text())
    given = {"backbone_weights": args.backbone_weights} if args.backbone_weights else {}
    config = Training(**study["training"] | given)
    options = dataclasses.asdict(config) | {"backbone_weights": Path(config.backbone_weights).name}
    results = []
    for run in runs_of(study):
        path = args.output / f"{run.name}.json"
        results.append(kept(path, options, functools.partial(carry_out, run, config, args.data)))
        figures = results[-1]["result"]["tests"]
        print(run.name, {name: round(test["auroc"]["value"], 3) for name, test in figures.items()}, flush=True)
    publish(args.json, {"study": study, "runs": results}, markdown(results))
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
