"""Measure the library against plain ways to do the same.

    python -m benchmarks.compare --json benchmarks/results/compare_cpu.json

Both sides run in one process, in turns. A figure is the median over rounds, with quartiles. The unfold form is checked
to agree before it is timed. Finished rows are kept in the JSON file: a run that was stopped goes on where it was.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from causalcxr import CausalObjective, ClassificationObjective, create_model
from causalcxr.layers import ACmix, ConfounderBank
from records import markdown_table

from .measuring import Row, Side, in_turns, measure, peak_memory, ratio
from .yardsticks import published_design, unfolded_acmix

NUM_CLASSES = 14


class Scale(NamedTuple):
    """The models, the images and the device of a comparison of whole models."""

    causal: str = "causal_resnet101"
    plain: str = "resnet101"
    pixels: int = 512
    batch: int = 2
    device: str = "cpu"
    bank: int = 0  # confounders of the causal objective

    def images(self) -> Tensor:
        shape = self.batch, 3, self.pixels, self.pixels
        return torch.randn(shape, device=self.device).to(memory_format=torch.channels_last)

    def targets(self) -> Tensor:
        return (torch.rand(self.batch, NUM_CLASSES, device=self.device) < 0.1).float()

    def objectives(self) -> dict[str, nn.Module]:
        """Return both sides: the causal model, and a linear head on its backbone at the same stride."""
        ours = create_model(self.causal)
        bank = ConfounderBank(self.bank, NUM_CLASSES, ours.head_hidden_size) if self.bank else None
        theirs = timm.create_model(self.plain, num_classes=NUM_CLASSES, output_stride=16)
        sides = {"ours": CausalObjective(ours, bank=bank), "theirs": ClassificationObjective(theirs)}
        return {name: side.to(self.device, memory_format=torch.channels_last) for name, side in sides.items()}


SMALL = {"causal": "causal_test_resnet", "plain": "test_resnet", "pixels": 64}


def autocast(device: str) -> torch.autocast:
    """Compute in bfloat16 on a GPU, and in float32 on a CPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def compared(
    sides: dict[str, Side], *, faster: bool, rounds: int, held: dict[str, int] | None = None, device: str = "cpu"
) -> Row:
    """Return theirs over ours where ours is to be `faster`, else ours over theirs; `held` bytes count towards peaks."""
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    row = {"faster": faster, "rounds": rounds} | ratio(in_turns(sides, rounds), over, under)
    peaks = {name: peak_memory(run, device) + (held or {}).get(name, 0) for name, run in sides.items()}
    return row | {"peak_bytes": peaks, "memory_ratio": round(peaks[over] / peaks[under], 4)}


def acmix(layer: ACmix, x: Tensor, *, rounds: int) -> Row:
    """Compare forward and backward with those of the unfold form."""
    device = x.device.type
    inputs, direction = (x.requires_grad_(), *layer.parameters()), torch.randn_like(x)

    def gradients(form: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with autocast(device):
            output = form(x)
        return torch.autograd.grad((output * direction).sum(), inputs)

    forms = {"ours": layer, "theirs": partial(unfolded_acmix, layer)}
    with torch.no_grad():
        ours, theirs = (form(x) for form in forms.values())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2 * float(theirs.abs().max()))  # up to TF32
    sides = {name: partial(gradients, form) for name, form in forms.items()}
    return compared(sides, faster=True, rounds=rounds, device=device)


def training_step(objective: nn.Module, images: Tensor, targets: Tensor) -> Side:
    """Return forward, loss, backward and AdamW."""
    device = images.device.type
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-5, fused=device == "cuda")

    def step() -> None:
        with autocast(device):
            loss = objective(images, targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(scale: Scale, *, rounds: int) -> Row:
    objectives, given = scale.objectives(), (scale.images(), scale.targets())
    sides = {name: training_step(objective, *given) for name, objective in objectives.items()}
    held = {name: 3 * size(objective) for name, objective in objectives.items()}  # two moments of each weight
    return compared(sides, faster=False, rounds=rounds, held=held, device=scale.device)


def forward(
    models: dict[str, nn.Module], images: Tensor, *, rounds: int, faster: bool = False, method: str = "forward"
) -> Row:
    """Compare what a method of both models does in evaluation."""
    device = images.device.type

    def scored(model: nn.Module) -> None:
        with torch.inference_mode(), autocast(device):
            getattr(model, method)(images)

    sides = {name: partial(scored, model.eval()) for name, model in models.items()}
    held = {name: size(model) for name, model in models.items()}
    return compared(sides, faster=faster, rounds=rounds, held=held, device=device)


def evaluation(scale: Scale, *, rounds: int) -> Row:
    models = {name: objective.model for name, objective in scale.objectives().items()}
    return forward(models, scale.images(), rounds=rounds)


def published(scale: Scale, width: int, *, rounds: int) -> Row:
    models = {"ours": create_model(scale.causal), "theirs": published_design(scale.causal, dim=width)}
    models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    return forward(models, scale.images(), rounds=rounds, faster=True, method="forward_causal")


def size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


WHOLE = "`causal_resnet101`, 512 px, stride 16, batch 2, channels_last"
PLAIN = "timm `resnet101`, same stride, linear head"


def rows(small: bool) -> dict[str, Callable[[], Row]]:
    """Return what is compared; `small` shrinks all of it."""
    scale = Scale(**SMALL) if small else Scale()
    width, side, most = (32, 16, 1) if small else (512, 32, 15)
    layer, x = ACmix(width, width), torch.randn(2, width, side, side)
    return {
        "`ACmix`, (2, 512, 32, 32), forward and backward | unfold form": partial(acmix, layer, x, rounds=min(most, 7)),
        f"{WHOLE}, training step with AdamW | {PLAIN}": partial(training, scale, rounds=min(most, 7)),
        f"{WHOLE}, evaluation | {PLAIN}": partial(evaluation, scale, rounds=most),
        "`causal_resnet101`, forward, 512 px, batch 2 | the published design at width 2,048": partial(
            published, scale, 64 if small else 2048, rounds=min(most, 5)
        ),
    }


def table(found: dict[str, Row]) -> str:
    body = []
    for title, row in found.items():
        word = "times less" if row["faster"] else "times"
        low, high = row["quartiles"]
        body.append(
            [
                title.replace(" | ", "; "),
                " against ".join(time_of(row["seconds"][side]) for side in ("ours", "theirs")),
                f"**{row['ratio']:.3g}** {word} ({low:.3g}, {high:.3g})",
                f"{row['memory_ratio']:.3g} {word}",
            ]
        )
    return markdown_table(["what; compared with", "time", "ratio (quartiles)", "peak memory of tensors"], body)


def time_of(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a trial: tiny models, one round")
    parser.add_argument("--json", type=Path, help="keep the results there, and the table beside it")
    args = parser.parse_args(argv)
    measure(rows(args.small), table, args.json)


if __name__ == "__main__":
    main()
