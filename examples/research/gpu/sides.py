"""The two sides of the comparison, the causal model and its plain backbone, each with its training step."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

import causalcxr
from causalcxr import CausalObjective, ClassificationObjective
from causalcxr.layers import ConfounderBank
from gpu.timing import autocast

NUM_CLASSES, BANK = 14, 1024


def build(name: str, device: str, *, checkpointing: bool = False) -> nn.Module:
    """Return the objective of a causal model, or that of a plain backbone of the same stride, in `channels_last`."""
    if name.startswith("causal_"):
        model: Any = causalcxr.create_model(name, num_classes=NUM_CLASSES)
        objective: nn.Module = CausalObjective(model, bank=ConfounderBank(BANK, NUM_CLASSES, model.head_hidden_size))
    else:
        model = timm.create_model(name, num_classes=NUM_CLASSES, output_stride=16)
        objective = ClassificationObjective(model)
    if checkpointing:
        model.set_grad_checkpointing()
    return objective.to(device, memory_format=torch.channels_last)


def batch_of(size: int, pixels: int, device: str) -> tuple[Tensor, Tensor]:
    """Return random images in `channels_last` and random targets."""
    images = torch.randn(size, 3, pixels, pixels, device=device).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand(size, NUM_CLASSES, device=device) < 0.1).float()


class Training:
    """One training step of `run`, the objective or what stands in its place: forward, loss, backward, fused AdamW."""

    def __init__(self, objective: nn.Module, run: Any, batch: tuple[Tensor, Tensor], device: str) -> None:
        self.run, self.batch, self.device = run, batch, device
        objective.train()
        self.optimizer = torch.optim.AdamW(objective.parameters(), 1e-4, fused=True)

    def __call__(self) -> None:
        with autocast(self.device):
            loss = self.run(*self.batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Evaluation:
    """One prediction of logits by `run`, the objective's model or what stands in its place, without gradients."""

    def __init__(self, objective: nn.Module, run: Any, batch: tuple[Tensor, Tensor], device: str) -> None:
        self.run, self.images, self.device = run, batch[0], device
        objective.eval()

    def __call__(self) -> None:
        with torch.inference_mode(), autocast(self.device):
            self.run(self.images)
