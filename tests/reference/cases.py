"""Every layer, with inputs, and every loss, for contract tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from causalcxr import CausalHead, layers
from causalcxr.losses import asymmetric_loss, backdoor_loss, classification_loss, uniform_kl_loss
from reference.comparison import normal

Loss = Callable[[Tensor, Tensor], Tensor]


def _acmix(batch: int, height: int, width: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return layers.ACmix(8, 16, num_heads=4), (normal(batch, 8, height, width),)


def _attention(complement: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    layer = layers.DisentangledCrossAttention(16, num_heads=4, complement=complement)
    return layer, (normal(2, 5, 16), normal(2, 54, 16, seed=2))


def _intervention(combine: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return layers.BackdoorIntervention(5, 16, combine=combine), (normal(4, 5, 16), normal(3, 5, 16, seed=2))


LAYERS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "ACmix": lambda: _acmix(2, 9, 6),
    "ACmix, smaller than its window": lambda: _acmix(2, 2, 3),
    "ACmix, by blocks on a CPU": lambda: _acmix(2, 20, 24),
    "ACmix, by blocks on a GPU": lambda: _acmix(1, 33, 32),
    "FeatureLearning": lambda: (layers.FeatureLearning(8, 16, num_heads=4), (normal(2, 8, 9, 6),)),
    "cross-attention, normalized": lambda: _attention("normalized"),
    "cross-attention, paper": lambda: _attention("paper"),
    "CausalDecoder": lambda: (layers.CausalDecoder(5, 16, num_heads=4), (normal(2, 16, 9, 6),)),
    "GroupLinear": lambda: (layers.GroupLinear(5, 16), (normal(2, 5, 16),)),
    "BackdoorIntervention, add": lambda: _intervention("add"),
    "BackdoorIntervention, cat": lambda: _intervention("cat"),
    "CausalHead": lambda: (CausalHead(8, 5, dim=16, num_heads=4), (normal(3, 8, 9, 6), normal(7, 5, 16))),
}


def tensors(output: Tensor | tuple[Tensor | None, ...]) -> list[Tensor]:
    """Return the tensors in a layer's output."""
    return [output] if isinstance(output, Tensor) else [tensor for tensor in output if tensor is not None]


def _backdoor(logits: Tensor, targets: Tensor) -> Tensor:
    """Use the logits and twice the logits as predictions with two confounders."""
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64, device=logits.device)
    return backdoor_loss(torch.stack([logits, 2 * logits], dim=1), targets, prior=prior)


CLASSIFICATION: dict[str, Loss] = {
    "cross-entropy": classification_loss,
    "asymmetric": asymmetric_loss,
    "asymmetric, small exponents": lambda z, y: asymmetric_loss(z, y, gamma_pos=0.5, gamma_neg=0.5, margin=0.1),
    "asymmetric, no margin": lambda z, y: asymmetric_loss(z, y, gamma_pos=1, gamma_neg=2, margin=0),
    "backdoor": _backdoor,
}
LOSSES: dict[str, Loss] = {
    **CLASSIFICATION,
    "uniform, categorical": lambda z, y: uniform_kl_loss(z),
    "uniform, bernoulli": lambda z, y: uniform_kl_loss(z, uniform="bernoulli"),
}

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, 0.0, 0.3], [1.0, NAN, 0.0, NAN], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
