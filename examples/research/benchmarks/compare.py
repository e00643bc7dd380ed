"""Measure the library against plain ways to do the same.

    python -m benchmarks.compare --json benchmarks/results/compare_cpu.json

Both sides run in one process, in turns. A figure is the median over rounds, with quartiles. The unfold form is checked
to agree before it is timed. Finished rows are kept in the JSON file: a run that was stopped goes on where it was.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr import CausalObjective, create_model
from causalcxr.layers import ACmix

from .measuring import Results, Side, in_turns, markdown_table, peak_memory, ratio, time_of
from .yardsticks import published_design, unfolded_acmix


def compared(
    ours: Side, theirs: Side, *, faster: bool, rounds: int = 7, held: dict[str, int] | None = None
) -> dict[str, Any]:
    """Return theirs over ours where ours is to be `faster`, else ours over theirs; `held` bytes count towards peaks."""
    sides = {"ours": ours, "theirs": theirs}
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    row = {"faster": faster, "rounds": rounds} | ratio(in_turns(sides, rounds), over, under)
    peaks = {name: peak_memory(run) + (held or {}).get(name, 0) for name, run in sides.items()}
    return row | {"peak_bytes": peaks, "memory_ratio": round(peaks[over] / peaks[under], 4)}


def acmix() -> dict[str, Any]:
    layer = ACmix(512, 512)
    x, direction = (torch.randn(2, 512, 32, 32) for _ in range(2))
    inputs = (x.requires_grad_(), *layer.parameters())

    def gradients(form: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((form(x) * direction).sum(), inputs)

    ours, theirs = partial(gradients, layer), partial(gradients, partial(unfolded_acmix, layer))
    torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=2e-2)  # sums over 2,048 pixels
    return compared(ours, theirs, faster=True)


def training() -> dict[str, Any]:
    images, models = _models()
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


def evaluation() -> dict[str, Any]:
    return _forward(*_models(), "forward", faster=False, rounds=15)


def published() -> dict[str, Any]:
    return _forward(*_models(published_design()), "forward_causal", faster=True, rounds=5)


def _forward(images: Tensor, models: dict[str, nn.Module], method: str, **options: Any) -> dict[str, Any]:
    held = {side: _size(model) for side, model in models.items()}
    runs = (partial(torch.inference_mode()(getattr(model.eval(), method)), images) for model in models.values())
    return compared(*runs, held=held, **options)


def _models(theirs: nn.Module | None = None) -> tuple[Tensor, dict[str, nn.Module]]:
    theirs = theirs or timm.create_model("resnet101", num_classes=14, output_stride=16)
    models = {"ours": create_model("causal_resnet101"), "theirs": theirs}
    images = torch.randn(2, 3, 512, 512).to(memory_format=torch.channels_last)
    return images, {side: model.to(memory_format=torch.channels_last) for side, model in models.items()}


def _size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


WHOLE = "`causal_resnet101`, 512 px, stride 16, batch 2, channels_last"
ROWS = {
    "acmix": ("`ACmix`, (2, 512, 32, 32), forward and backward | unfold form", acmix),
    "training": (f"{WHOLE}, training step with AdamW | timm `resnet101`, same stride, linear head", training),
    "evaluation": (f"{WHOLE}, evaluation | timm `resnet101`, same stride, linear head", evaluation),
    "published": ("`causal_resnet101`, forward, 512 px, batch 2 | the published design at width 2,048", published),
}


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
        results.measure(*ROWS[name])
    results.finish(table)


if __name__ == "__main__":
    main()
