"""Measure the library against plain ways to do the same.

    python -m benchmarks.compare --json benchmarks/results/compare_cpu.json

Both sides run in one process, in turns. A figure is the median over rounds, with quartiles. Where both sides compute
the same, they are checked to agree before they are timed. Finished rows are kept in the JSON file: a run that was
stopped goes on where it was. Needs the extra `[train]`, and half an hour on two cores.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr import CausalObjective, create_model
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from causalcxr.losses import backdoor_loss
from causalcxr.metrics import bootstrap_auroc

from .measuring import Results, Side, in_turns, markdown_table, peak_memory, ratio, time_of
from .yardsticks import (
    loop_over_confounders,
    loop_over_resamples,
    materialised_attention,
    one_branch_attention,
    published_design,
    unfolded_acmix,
)

Rows = Iterator[tuple[str, Callable[[], dict[str, Any]]]]


def compared(
    ours: Side, theirs: Side, *, faster: bool, rounds: int = 7, memory: bool = True, held: dict[str, int] | None = None
) -> dict[str, Any]:
    """Time both sides: theirs over ours where ours is to be `faster`, ours over theirs where it may cost more.

    `held` are bytes that each side holds all the time. They count towards its peak.
    """
    sides = {"ours": ours, "theirs": theirs}
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    row = {"faster": faster, "rounds": rounds} | ratio(in_turns(sides, rounds), over, under)
    if memory:
        peaks = {name: peak_memory(run) + (held or {}).get(name, 0) for name, run in sides.items()}
        row |= {"peak_bytes": peaks, "memory_ratio": round(peaks[over] / peaks[under], 4)}
    return row


def agree(given: object, expected: object, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    torch.testing.assert_close(given, expected, rtol=rtol, atol=atol)


def gradients(run: Callable[[], Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the value and the gradients with respect to the inputs."""
    value = run()
    return value.detach(), *torch.autograd.grad(value, inputs)


def acmix() -> Rows:
    def row() -> dict[str, Any]:
        layer = ACmix(512, 512)
        x, direction = (torch.randn(2, 512, 32, 32) for _ in range(2))
        x.requires_grad_()
        ours, theirs = (
            partial(gradients, lambda form=form: (form(x) * direction).sum(), x, *layer.parameters())
            for form in (layer, partial(unfolded_acmix, layer))
        )
        agree(ours()[1:], theirs()[1:], rtol=1e-3, atol=2e-2)  # sums over 2,048 pixels
        return compared(ours, theirs, faster=True)

    yield "`ACmix`, (2, 512, 32, 32), forward and backward | unfold form", row


def attention() -> Rows:
    def row(dim: int) -> dict[str, Any]:
        layer = DisentangledCrossAttention(dim)
        query, tokens = (torch.randn(8, length, dim, requires_grad=True) for length in (14, 1024))
        literal = materialised_attention(layer, query, tokens)
        agree(layer(query, tokens)[:2], literal[:2])
        agree(one_branch_attention(layer, query, tokens), literal.causal)

        def both() -> Tensor:
            output = layer(query, tokens)
            return output.causal.sum() + output.confounder.sum()

        def one() -> Tensor:
            return one_branch_attention(layer, query, tokens).sum()

        inputs = (query, tokens, *layer.parameters())
        return compared(partial(gradients, both, *inputs), partial(gradients, one, *inputs), faster=False, rounds=20)

    for dim in (256, 512):
        title = f"`DisentangledCrossAttention`, batch 8, 14 queries, 1,024 tokens, width {dim}, both branches"
        yield f"{title}, forward and backward | plain fused attention, one branch", partial(row, dim)


def intervention() -> Rows:
    def row() -> dict[str, Any]:
        layer = BackdoorIntervention(14, 256)
        causal = torch.randn(64, 14, 256, requires_grad=True)
        bank, targets = torch.randn(4096, 14, 256), (torch.rand(64, 14) < 0.1).float()
        inputs = (causal, layer.classifier.weight, layer.classifier.bias)
        ours = partial(gradients, lambda: backdoor_loss(layer(causal, bank), targets), *inputs)
        loop = partial(loop_over_confounders, *inputs[1:], causal, bank, targets)
        theirs = partial(gradients, loop, *inputs)
        agree(ours(), theirs())
        return compared(ours, theirs, faster=True, memory=False)

    title = "`BackdoorIntervention` and `backdoor_loss`, 64 images, 4,096 confounders, 14 labels, forward and backward"
    yield f"{title} | loop over confounders, all images at once", row


def training() -> Rows:
    def row(memory_format: torch.memory_format) -> dict[str, Any]:
        images, models = _models(memory_format)
        targets = (torch.rand(2, 14) < 0.1).float()
        objective = CausalObjective(models["ours"])
        losses = {
            "ours": lambda: objective(images, targets)["loss"],
            "theirs": lambda: F.binary_cross_entropy_with_logits(models["theirs"](images), targets),
        }
        optimizers = {side: torch.optim.AdamW(model.parameters(), 1e-5) for side, model in models.items()}

        def step(side: str) -> None:
            losses[side]().backward()
            optimizers[side].step()
            optimizers[side].zero_grad()

        held = {side: 3 * _size(model) for side, model in models.items()}  # AdamW has two moments of each weight
        return compared(partial(step, "ours"), partial(step, "theirs"), faster=False, held=held)

    yield from _formats("training step with AdamW", row)


def evaluation() -> Rows:
    def row(memory_format: torch.memory_format) -> dict[str, Any]:
        images, models = _models(memory_format)
        ours, theirs = (partial(torch.inference_mode()(models[side].eval()), images) for side in ("ours", "theirs"))
        held = {side: _size(model) for side, model in models.items()}
        return compared(ours, theirs, faster=False, rounds=15, held=held)

    yield from _formats("evaluation", row)


def _formats(what: str, row: Callable[[torch.memory_format], dict[str, Any]]) -> Rows:
    for name, memory_format in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        title = f"`causal_resnet101`, 512 px, stride 16, batch 2, {name}, {what}"
        yield f"{title} | timm `resnet101`, same stride, linear head", partial(row, memory_format)


def _models(memory_format: torch.memory_format) -> tuple[Tensor, dict[str, nn.Module]]:
    plain = timm.create_model("resnet101", num_classes=14, output_stride=16)
    models = {"ours": create_model("causal_resnet101"), "theirs": plain}
    images = torch.randn(2, 3, 512, 512).to(memory_format=memory_format)
    return images, {side: model.to(memory_format=memory_format) for side, model in models.items()}


def _size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def published() -> Rows:
    def row() -> dict[str, Any]:
        ours, theirs = create_model("causal_resnet101"), published_design()
        images = torch.randn(2, 3, 512, 512).to(memory_format=torch.channels_last)
        runs = [
            partial(torch.inference_mode()(model.eval().to(memory_format=torch.channels_last).forward_causal), images)
            for model in (ours, theirs)
        ]
        parameters = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
        return compared(*runs, faster=True, rounds=5, memory=False) | {"parameters": parameters}

    yield "`causal_resnet101`, forward, 512 px, batch 2 | the published design at width 2,048", row


def bootstrap() -> Rows:
    def row() -> dict[str, Any]:
        rng = np.random.default_rng(0)
        groups = np.sort(rng.integers(2797, size=25596))
        targets = (rng.random((25596, 14)) < np.geomspace(0.002, 0.2, 14)).astype(np.float64)
        scores = (rng.normal(size=targets.shape) + targets).round(2)  # with ties
        few = np.array(list(itertools.islice(loop_over_resamples(scores, targets, groups, 5), 5)))
        np.testing.assert_allclose(few, bootstrap_auroc(scores, targets, groups, n_resamples=5).resamples)
        start = time.perf_counter()
        list(loop_over_resamples(scores, targets, groups, 2000))  # minutes: once
        theirs = time.perf_counter() - start
        ours = in_turns({"ours": lambda: bootstrap_auroc(scores, targets, groups)}, 5)
        return {"faster": True, "rounds": 5} | ratio(ours | {"theirs": [theirs] * 5}, "theirs", "ours")

    title = "`bootstrap_auroc`, 25,596 images, 14 labels, 2,000 resamples of 2,797 patients"
    yield f"{title} | scikit-learn, in a loop", row


ROWS = {row.__name__: row for row in (acmix, attention, intervention, training, evaluation, published, bootstrap)}


def table(rows: dict[str, dict[str, Any]]) -> str:
    body = []
    for title, row in rows.items():
        word = "times less" if row["faster"] else "times"
        low, high = row["quartiles"]
        body.append(
            [
                title.replace(" | ", "; "),
                " against ".join(time_of(row["seconds"][side]) for side in ("ours", "theirs")),
                f"**{row['ratio']:.3g}** {word} ({low:.3g}, {high:.3g})",
                f"{row['memory_ratio']:.3g} {word}" if "memory_ratio" in row else "",
            ]
        )
    return markdown_table(["what; compared with", "time", "ratio (quartiles)", "peak memory of tensors"], body)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    args = parser.parse_args(argv)
    results = Results(args.json)
    for name in args.rows:
        for title, row in ROWS[name]():
            results.measure(title, row)
    results.finish(table)


if __name__ == "__main__":
    main()
