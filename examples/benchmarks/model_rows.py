"""Rows of the comparison: whole models."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr import CausalObjective, create_model
from comparing import Rows, agree, compared
from measuring import held_by
from yardsticks import published_design

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def training(device: str) -> Rows:
    targets = (torch.rand(2, 14, device=device) < 0.1).float()
    for title, images, models in both(device):
        objective = CausalObjective(models["ours"])

        def plain_loss(x: Tensor = images, y: Tensor = targets, model: nn.Module = models["theirs"]) -> Tensor:
            return F.binary_cross_entropy_with_logits(model(x), y)

        def causal_loss(x: Tensor = images, y: Tensor = targets, objective: nn.Module = objective) -> Tensor:
            return objective(x, y)["loss"]

        losses = {"ours": causal_loss, "theirs": plain_loss}
        optimizers = {side: torch.optim.AdamW(model.parameters(), 1e-5) for side, model in models.items()}

        def step(side: str, losses: Any = losses, optimizers: Any = optimizers) -> None:
            losses[side]().backward()
            optimizers[side].step()
            optimizers[side].zero_grad()

        sides = {side: partial(step, side) for side in losses}
        for run in sides.values():
            run()  # the optimizers have their state from now on
        held = {side: held_by(model, optimizers[side]) for side, model in models.items()}
        result = compared(sides, device, faster=False, time=1.15, memory=1.15, held=held, rounds=15)
        yield title.format("training step with AdamW"), result


def evaluation(device: str) -> Rows:
    for title, images, models in both(device):
        sides = {side: partial(torch.inference_mode()(model.eval()), images) for side, model in models.items()}
        held = {side: held_by(model) for side, model in models.items()}
        result = compared(sides, device, faster=False, time=1.10, memory=1.10, held=held, rounds=40)
        yield title.format("evaluation"), result


def both(device: str) -> Iterator[tuple[str, Tensor, dict[str, nn.Module]]]:
    """Yield the title of a row, images, and the causal model and the plain one, in each memory format."""
    for name, memory_format in FORMATS.items():
        images = torch.randn(2, 3, 512, 512, device=device).to(memory_format=memory_format)
        plain = timm.create_model("resnet101", num_classes=14, output_stride=16)
        models = {"ours": create_model("causal_resnet101"), "theirs": plain}
        models = {side: model.to(device, memory_format=memory_format) for side, model in models.items()}
        title = (
            f"`causal_resnet101`, 512 px, stride 16, batch 2, {name}, {{}} | timm `resnet101`, same stride, linear head"
        )
        yield title, images, models


def published(device: str) -> Rows:
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
    result = compared(sides, device, faster=True, time=10.0, rounds=5)
    parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in (("ours", ours), ("theirs", theirs))}
    result |= {"parameters": parameters, "parameters_ratio": round(parameters["theirs"] / parameters["ours"], 3)}
    yield "`causal_resnet101`, forward, 512 px, batch 2 | the published design at width 2,048", result
