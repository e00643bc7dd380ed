"""Compare the library with straightforward implementations.

    python -m benchmarks.compare --json benchmarks/results/compare_cpu.json
    python -m benchmarks.compare --device cuda --json benchmarks/results/compare_gpu.json

Both sides run alternately in one process. Results are medians over rounds, with quartiles. The unfold form is checked
for agreement before it is timed. On a GPU it runs in bfloat16 with a bank of 1,024 confounders, and needs 30 GB of
memory. `--small` is a test run: tiny models, one round.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from causalcxr import CausalObjective, ClassificationObjective, create_model
from causalcxr.layers import ACmix, ConfounderBank
from records import markdown_table

from .measuring import Row, Side, command, in_turns, peak_memory, ratio
from .yardsticks import published_design, unfolded_acmix

NUM_CLASSES, BANK = 14, 1024


class Scale(NamedTuple):
    """Models, images and device for comparing whole models."""

    causal: str = "causal_resnet101"
    plain: str = "resnet101"
    pixels: int = 512
    batch: int = 2
    device: str = "cpu"
    bank: int = 0  # size of the confounder bank of the causal objective
    checkpointing: bool = False

    def __str__(self) -> str:
        return f"`{self.causal}`, {self.pixels} px, stride 16, batch {self.batch}, channels_last"

    def images(self) -> Tensor:
        shape = self.batch, 3, self.pixels, self.pixels
        return torch.randn(shape, device=self.device).to(memory_format=torch.channels_last)

    def targets(self) -> Tensor:
        return (torch.rand(self.batch, NUM_CLASSES, device=self.device) < 0.1).float()

    def objectives(self) -> dict[str, nn.Module]:
        """Return both sides: the causal model, and its backbone with a linear head at the same stride."""
        ours = create_model(self.causal)
        bank = ConfounderBank(self.bank, NUM_CLASSES, ours.head_hidden_size) if self.bank else None
        theirs = timm.create_model(self.plain, num_classes=NUM_CLASSES, output_stride=16)
        sides = {"ours": CausalObjective(ours, bank=bank), "theirs": ClassificationObjective(theirs)}
        for side in sides.values():
            side.to(self.device, memory_format=torch.channels_last).model.set_grad_checkpointing(self.checkpointing)
        return sides


def autocast(device: str) -> torch.autocast:
    """Return a context for bfloat16 on a GPU and float32 on a CPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def compared(
    sides: dict[str, Side], *, faster: bool, rounds: int, held: dict[str, int] | None = None, device: str = "cpu"
) -> Row:
    """Return theirs over ours if `faster`, else ours over theirs. `held` bytes count towards peaks."""
    over, under = ("theirs", "ours") if faster else ("ours", "theirs")
    row = {"faster": faster, "rounds": rounds} | ratio(in_turns(sides, rounds), over, under)
    peaks = {name: peak_memory(run, device) + (held or {}).get(name, 0) for name, run in sides.items()}
    return row | {"peak_bytes": peaks, "memory_ratio": round(peaks[over] / peaks[under], 4)}


def acmix(layer: ACmix, x: Tensor, *, rounds: int) -> Row:
    """Compare forward and backward passes with those of the unfold form."""
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
    """Return a step of forward, loss, backward and AdamW."""
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
    held = {name: 3 * size(objective) for name, objective in objectives.items()}  # weights and two moments each
    return compared(sides, faster=False, rounds=rounds, held=held, device=scale.device)


def forward(
    models: dict[str, nn.Module], images: Tensor, *, rounds: int, faster: bool = False, method: str = "forward"
) -> Row:
    """Compare a method of both models in evaluation mode."""
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


def compiled(scale: Scale, *, rounds: int) -> Row:
    backend = "inductor" if scale.device == "cuda" else "eager"
    models = {name: objective.model.eval() for name, objective in scale.objectives().items()}
    models = {name: torch.compile(model, backend=backend) for name, model in models.items()}
    return forward(models, scale.images(), rounds=rounds)


def published(scale: Scale, width: int, *, rounds: int) -> Row:
    models = {"ours": create_model(scale.causal), "theirs": published_design(scale.causal, dim=width)}
    models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    return forward(models, scale.images(), rounds=rounds, faster=True, method="forward_causal")


def size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


ON_CPU = ("acmix", "training", "evaluation", "published")
ON_GPU = ("acmix", "training", "evaluation", "checkpointed", "compiled")


def rows(device: str, small: bool) -> dict[str, Callable[[], Row]]:
    """Return the comparisons for a device. `small` returns all of them in tiny sizes."""
    on_gpu = device == "cuda"
    if small:
        scale = Scale("causal_test_resnet", "test_resnet", 64, device=device, bank=BANK)
        shape, width, few, many = (2, 32, 16, 16), 64, 1, 1
    elif on_gpu:
        scale = Scale(batch=64, device=device, bank=BANK)
        shape, width, few, many = (32, 256, 32, 32), 2048, 12, 20
    else:
        scale, shape, width, few, many = Scale(), (2, 512, 32, 32), 2048, 7, 15
    quarter = scale._replace(batch=scale.batch // 4 or 2)
    saving = scale._replace(checkpointing=True)

    def attention() -> Row:
        memory_format = torch.channels_last if on_gpu else torch.contiguous_format
        layer = ACmix(shape[1], shape[1], num_heads=8 if on_gpu else 4).to(device, memory_format=memory_format)
        return acmix(layer, torch.randn(shape, device=device).contiguous(memory_format=memory_format), rounds=few)

    plain = f"timm `{scale.plain}`, same stride, linear head"
    models = f"`{scale.causal}`, forward, {scale.pixels} px, batch {scale.batch}"
    found: dict[str, tuple[str, Callable[[], Row]]] = {
        "acmix": (f"`ACmix`, {shape}, forward and backward | unfold form", attention),
        "training": (f"{scale}, training step with AdamW | {plain}", partial(training, scale, rounds=few)),
        "evaluation": (f"{scale}, evaluation | {plain}", partial(evaluation, scale, rounds=many)),
        "published": (
            f"{models} | the published design at width {width:,}",
            partial(published, scale, width, rounds=min(few, 5)),
        ),
        "checkpointed": (f"{scale}, training step, checkpointed | {plain}", partial(training, saving, rounds=few)),
        "compiled": (f"{quarter}, compiled evaluation | {plain}", partial(compiled, quarter, rounds=many)),
    }
    chosen = found if small else ON_GPU if on_gpu else ON_CPU
    return dict(found[name] for name in chosen)


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
    command(__doc__, rows, table, argv, device="cpu", small=False)


if __name__ == "__main__":
    main()
