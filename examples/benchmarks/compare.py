"""Measure the library against plain ways to do the same, and print what each costs.

    python examples/benchmarks/compare.py --json docs/results/benchmarks/compare_cpu.json
    python examples/benchmarks/compare.py --device cuda --json docs/results/benchmarks/compare_cuda.json

Both sides run in one process, in turns; a figure is the median over rounds, with quartiles. Where both sides compute
the same, they are checked to agree before they are timed. Finished rows are kept in the JSON file: a run that was
stopped goes on where it was, `--again ROW` measures a row anew. Needs the extra `[train]`, and about half an hour on
two cores, most of it for the full-size models and for scikit-learn's bootstrap.
"""

import argparse
import copy
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measuring import environment, held_by, in_turns, once, peak_memory, ratio, read_results, say, write_results
from reading import reading_sides
from torch import Tensor, nn
from tqdm import tqdm
from yardsticks import (
    MaterialisedCrossAttention,
    OneBranchCrossAttention,
    UnfoldACmix,
    loop_over_confounders,
    loop_over_resamples,
    published_design,
    written_out,
)

from causalcxr import CausalObjective, create_model
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from causalcxr.losses import backdoor_loss
from causalcxr.metrics import bootstrap_auroc

Result = dict[str, Any]
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def compared(
    sides: dict[str, Callable[[], object]],
    device: str,
    *,
    time: float,
    memory: float | None = None,
    faster: bool,
    held: dict[str, int] | None = None,
    **turns: Any,
) -> Result:
    """Time the sides `ours` and `theirs` and take their peak memory.

    Args:
        sides: What to run.
        device: Where.
        time: Ratio that must be reached: theirs over ours if `faster`, at most ours over theirs otherwise.
        memory: The same for peak memory.
        faster: Whether ours should be the faster one, or may cost a little more.
        held: Bytes that each side holds all the time, counted towards its peak.
        **turns: `rounds`, `seconds` and `warmup`.
    """
    times = in_turns(sides, device=device, **turns)
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    median, low, high = ratio(times, over, under)
    result: Result = {"faster": faster, "ratio": round(median, 4), "quartiles": [round(low, 4), round(high, 4)]}
    result |= {"must_reach": time, "seconds": {name: float(np.median(took)) for name, took in times.items()}}
    result["rounds"] = len(times["ours"])
    if memory is not None:
        peaks = {name: peak_memory(run, device) for name, run in sides.items()}
        if None not in peaks.values():
            peaks = {name: int(peak) + (held or {}).get(name, 0) for name, peak in peaks.items()}
            result |= {"peak_bytes": peaks, "memory_ratio": round(peaks[over] / max(peaks[under], 1), 4)}
        result["memory_must_reach"] = memory
    return result


def agree(given: object, expected: object, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Raise unless both sides computed the same."""
    torch.testing.assert_close(given, expected, rtol=rtol, atol=atol)


def gradients(run: Callable[[], Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the value and the gradients with respect to the inputs."""
    value = run()
    return value.detach(), *torch.autograd.grad(value, inputs)


def acmix(device: str) -> Iterator[tuple[str, Result]]:
    ours = ACmix(512, 512).to(device)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = UnfoldACmix
    x, direction = (torch.randn(2, 512, 32, 32, device=device) for _ in range(2))
    x.requires_grad_()
    sides = {
        name: partial(gradients, lambda layer=layer: (layer(x) * direction).sum(), x, *layer.parameters())
        for name, layer in (("ours", ours), ("theirs", theirs))
    }
    agree(ours(x), theirs(x))
    agree(sides["ours"]()[1:], sides["theirs"]()[1:], rtol=1e-3, atol=2e-2)  # sums over 2,048 pixels
    time = 6.0 if device == "cpu" else 3.0
    yield "`ACmix`, (2, 512, 32, 32), forward and backward | unfold form", compared(
        sides, device, faster=True, time=time, memory=8.0, rounds=15
    )


def attention(device: str) -> Iterator[tuple[str, Result]]:
    for dim in (256, 512):
        ours = DisentangledCrossAttention(dim).to(device)
        theirs, literal = copy.deepcopy(ours), copy.deepcopy(ours)
        theirs.__class__, literal.__class__ = OneBranchCrossAttention, MaterialisedCrossAttention
        query, tokens = torch.randn(8, 14, dim, device=device), torch.randn(8, 1024, dim, device=device)
        query.requires_grad_()
        tokens.requires_grad_()
        agree(ours(query, tokens), literal(query, tokens))
        agree(ours(query, tokens).causal, theirs(query, tokens))

        def both(layer: nn.Module = ours, query: Tensor = query, tokens: Tensor = tokens) -> Tensor:
            output = layer(query, tokens)
            return output.causal.sum() + output.confounder.sum()

        def one(layer: nn.Module = theirs, query: Tensor = query, tokens: Tensor = tokens) -> Tensor:
            return layer(query, tokens).sum()

        sides = {
            "ours": partial(gradients, both, query, tokens, *ours.parameters()),
            "theirs": partial(gradients, one, query, tokens, *theirs.parameters()),
        }
        yield (
            f"`DisentangledCrossAttention`, batch 8, 14 queries, 1,024 tokens, width {dim}, both branches, forward and "
            "backward | plain fused attention, one branch",
            compared(sides, device, faster=False, time=1.05, memory=1.05, rounds=60),
        )


def intervention(device: str) -> Iterator[tuple[str, Result]]:
    layer = BackdoorIntervention(14, 256).to(device)
    causal = torch.randn(64, 14, 256, device=device, requires_grad=True)
    confounder, bank = torch.randn(64, 14, 256, device=device), torch.randn(4096, 14, 256, device=device)
    targets = (torch.rand(64, 14, device=device) < 0.1).float()
    phi = layer.classifier
    inputs = (causal, phi.weight, phi.bias)
    ours = partial(gradients, lambda: backdoor_loss(layer(causal, confounder, bank), targets), *inputs)
    loops = {"written out": written_out(phi), "`GroupLinear`": phi}
    for name, classify in loops.items():
        theirs = partial(gradients, lambda f=classify: loop_over_confounders(f, causal, bank, targets), *inputs)
        agree(ours(), theirs())
        yield (
            "`BackdoorIntervention` and `backdoor_loss`, 64 images, 4,096 confounders, 14 labels, forward and backward | "
            f"loop over confounders, classifier {name}",
            compared({"ours": ours, "theirs": theirs}, device, faster=True, time=100.0, rounds=10, warmup=2),
        )


def training(device: str) -> Iterator[tuple[str, Result]]:
    for name, memory_format in FORMATS.items():
        images = torch.randn(2, 3, 512, 512, device=device).to(memory_format=memory_format)
        targets = (torch.rand(2, 14, device=device) < 0.1).float()
        plain = timm.create_model("resnet101", num_classes=14, output_stride=16)
        causal = create_model("causal_resnet101")
        plain, causal = (model.to(device, memory_format=memory_format) for model in (plain, causal))
        criterion, objective = nn.BCEWithLogitsLoss(), CausalObjective(causal)

        def plain_loss(x: Tensor = images, y: Tensor = targets, model: nn.Module = plain) -> Tensor:
            return criterion(model(x), y)

        def causal_loss(x: Tensor = images, y: Tensor = targets, objective: nn.Module = objective) -> Tensor:
            return objective(x, y)["loss"]

        losses = {"ours": (causal, causal_loss), "theirs": (plain, plain_loss)}
        optimizers = {side: torch.optim.AdamW(model.parameters(), 1e-5) for side, (model, _) in losses.items()}

        def step(side: str, losses: Any = losses, optimizers: Any = optimizers) -> None:
            losses[side][1]().backward()
            optimizers[side].step()
            optimizers[side].zero_grad()

        sides = {side: partial(step, side) for side in losses}
        for run in sides.values():
            run()  # the optimizers have their state from now on
        held = {side: held_by(model, optimizers[side]) for side, (model, _) in losses.items()}
        title = f"`causal_resnet101`, 512 px, stride 16, batch 2, {name}"
        plain_title = "timm `resnet101`, same stride, linear head"
        yield f"{title}, training step with AdamW | {plain_title}", compared(
            sides, device, faster=False, time=1.15, memory=1.15, held=held, rounds=9
        )
        forwards = {
            side: partial(torch.inference_mode()(model.eval()), images) for side, (model, _) in losses.items()
        }
        held = {side: held_by(model) for side, (model, _) in losses.items()}
        yield f"{title}, evaluation | {plain_title}", compared(
            forwards, device, faster=False, time=1.10, memory=1.10, held=held, rounds=15
        )


def published(device: str) -> Iterator[tuple[str, Result]]:
    small = {"num_classes": 15, "combine": "cat", "dim": 64}
    theirs, ours = published_design("causal_test_resnet", dim=64).eval(), create_model("causal_test_resnet", **small)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 128, 128)
    agree(ours.eval().forward_causal(x), theirs.forward_causal(x))
    ours, theirs = create_model("causal_resnet101"), published_design("causal_resnet101")
    ours, theirs = (model.eval().to(device, memory_format=torch.channels_last) for model in (ours, theirs))
    images = torch.randn(2, 3, 512, 512, device=device).to(memory_format=torch.channels_last)
    sides = {
        name: partial(torch.inference_mode()(model.forward_causal), images)
        for name, model in (("ours", ours), ("theirs", theirs))
    }
    result = compared(sides, device, faster=True, time=10.0, memory=1.0, rounds=5)
    parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in (("ours", ours), ("theirs", theirs))}
    result |= {"parameters": parameters, "parameters_ratio": round(parameters["theirs"] / parameters["ours"], 3)}
    yield "`causal_resnet101`, forward, 512 px, batch 2 | the published design at width 2,048", result


def bootstrap(device: str) -> Iterator[tuple[str, Result]]:
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
    yield "`bootstrap_auroc`, 25,596 images, 14 labels, 2,000 resamples of 2,797 patients | scikit-learn, in a loop", {
        "faster": True,
        "ratio": round(float(np.median(ratios)), 2),
        "quartiles": [round(float(q), 2) for q in np.quantile(ratios, [0.25, 0.75])],
        "must_reach": 50.0,
        "seconds": {"ours": float(np.median(ours)), "theirs": theirs},
        "rounds": 5,
    }


def importing(device: str) -> Iterator[tuple[str, Result]]:
    def start(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    sides = {"ours": partial(start, "causalcxr"), "theirs": partial(start, "timm")}
    yield "`import causalcxr`, a new process each time | `import timm`", compared(
        sides, "cpu", faster=False, time=1.05, rounds=12
    )


def reading(device: str, release: Path) -> Iterator[tuple[str, Result]]:
    with reading_sides(release) as (title, sides):
        yield title, compared(sides, "cpu", faster=True, time=3.0, rounds=8)


ROWS: dict[str, Callable[..., Iterator[tuple[str, Result]]]] = {
    "acmix": acmix,
    "attention": attention,
    "intervention": intervention,
    "training": training,
    "published": published,
    "bootstrap": bootstrap,
    "importing": importing,
    "reading": reading,
}


def table(results: dict[str, Result]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| what | compared with | must reach | time | time ratio (quartiles) | peak memory ratio |",
        "|---|---|---|---|---|---|",
    ]
    for title, row in results.items():
        what, against = title.split(" | ")
        word = "x faster" if row["faster"] else "x at most"
        target = f"{row['must_reach']:g} {word}"
        low, high = row["quartiles"]
        times = f"{shown(row['seconds']['ours'])}, {shown(row['seconds']['theirs'])}"
        figure = f"**{row['ratio']:.3g}** ({low:.3g}, {high:.3g})"
        memory = f"{row['memory_ratio']:.3g}" if "memory_ratio" in row else ""
        lines.append(f"| {what} | {against} | {target} | {times} | {figure} | {memory} |")
    return "\n".join(lines)


def shown(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--again", nargs="+", choices=ROWS, default=[], help="rows to measure anew")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--release", type=Path, help="folder of 1024 px images of the NIH release, for the row `reading`")
    parser.add_argument("--json", type=Path, help="keep the results there")
    args = parser.parse_args(argv)
    results = read_results(args.json)
    for name in args.rows:
        if name not in args.again and any(row["row"] == name for row in results.values()):
            say(f"{name}: measured before")
            continue
        if name == "reading" and args.release is None:
            say(f"{name}: left out, it needs --release")
            continue
        say(f"{name} ...")
        torch.manual_seed(0)
        options = {"release": args.release} if name == "reading" else {}
        for title, row in ROWS[name](args.device, **options):
            results[title] = {"row": name, "seed": 0, **row, "environment": environment(args.device)}
            write_results(args.json, args.device, results)
    print(table(results))


if __name__ == "__main__":
    main()
