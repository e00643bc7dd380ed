"""Every layer, with inputs and its reference, and every loss, for contract tests."""

from functools import partial

import torch
from torch import Tensor

from causalcxr import CausalHead, layers
from causalcxr.losses import asymmetric_loss, backdoor_loss, classification_loss, uniform_kl_loss
from reference.acmix import acmix
from reference.backdoor import intervene_all
from reference.causal_head import causal_head
from reference.comparison import normal, part
from reference.cross_attention import disentangled_attention
from reference.decoder import causal_decoder, sincos_position
from reference.feature_learning import feature_learning
from reference.group_linear import group_linear


def _acmix(*size, num_heads=4, window=7, kernel=3):
    layer = layers.ACmix(8, 16, num_heads=num_heads, attn_kernel_size=window, kernel_size=kernel)
    return layer, [normal(2, 8, *size)], partial(acmix, num_heads=num_heads, window=window, kernel=kernel)


def _feature_learning():
    return layers.FeatureLearning(8, 16, num_heads=4), [normal(2, 8, 9, 6)], partial(feature_learning, num_heads=4)


def _attention(num_tokens, complement, num_heads):
    options = {"num_heads": num_heads, "complement": complement}
    inputs = [normal(2, n, 16, seed=seed) for seed, n in enumerate((5, num_tokens, num_tokens))]
    return layers.DisentangledCrossAttention(16, **options), inputs, partial(disentangled_attention, **options)


def _decoder(*size, depth, complement):
    options = {"depth": depth, "num_heads": 4, "complement": complement}
    reference = partial(causal_decoder, position=sincos_position(*size, 16), **options)
    return layers.CausalDecoder(5, 16, **options), [normal(2, 16, *size)], reference


def _group_linear():
    def reference(h, weights):
        return torch.stack([torch.stack([group_linear(each, **weights) for each in row]) for row in h])

    return layers.GroupLinear(5, 16), [normal(2, 3, 5, 16)], reference


def _intervention(combine):
    def reference(causal, borrowed, weights):
        return intervene_all(causal, borrowed, **part(weights, "classifier"), combine=combine)

    layer = layers.BackdoorIntervention(5, 16, combine=combine)
    return layer, [normal(4, 5, 16), normal(3, 5, 16, seed=2)], reference


def _head(num_confounders, *, depth=2, **options):
    def reference(features, *rest):
        *borrowed, weights = rest
        position = sincos_position(9, 6, 16)
        return causal_head(features, weights, position, *borrowed, depth=depth, num_heads=4, **options)

    inputs = [normal(3, 8, 9, 6), *([normal(num_confounders, 5, 16)] if num_confounders else [])]
    return CausalHead(8, 5, dim=16, num_heads=4, depth=depth, **options), inputs, reference


# Functions that return a layer, its inputs, and its reference, which maps the inputs and the state dict to the outputs.
LAYERS = {
    "ACmix": lambda: _acmix(9, 6),
    "ACmix, smaller than its window": lambda: _acmix(1, 3),
    "ACmix, by overhanging blocks": lambda: _acmix(34, 31),
    "ACmix, one head in a large window": lambda: _acmix(3, 4, num_heads=1, window=11, kernel=1),
    "ACmix, one channel a head in a large kernel": lambda: _acmix(3, 4, num_heads=16, window=1, kernel=5),
    "FeatureLearning": _feature_learning,
    "cross-attention, normalized": lambda: _attention(54, "normalized", num_heads=4),
    "cross-attention, paper": lambda: _attention(54, "paper", num_heads=1),
    "cross-attention, one token without a complement": lambda: _attention(1, "normalized", num_heads=16),
    "CausalDecoder": lambda: _decoder(9, 6, depth=2, complement="normalized"),
    "CausalDecoder, one layer on a line": lambda: _decoder(9, 1, depth=1, complement="paper"),
    "GroupLinear": _group_linear,
    "BackdoorIntervention, add": lambda: _intervention("add"),
    "BackdoorIntervention, cat": lambda: _intervention("cat"),
    "CausalHead": lambda: _head(7),
    "CausalHead, of the batch": lambda: _head(0),
    "CausalHead, of the batch, paper": lambda: _head(0, complement="paper", depth=1),
    "CausalHead, cat": lambda: _head(7, combine="cat"),
    "CausalHead, of the batch, cat": lambda: _head(0, combine="cat"),
}


def tensors(output):
    """Return the tensors in a layer's output."""
    return [output] if isinstance(output, Tensor) else [tensor for tensor in output if tensor is not None]


def _backdoor(logits, targets):
    """Use the logits and twice the logits as predictions with two confounders."""
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64, device=logits.device)
    return backdoor_loss(torch.stack([logits, 2 * logits], dim=1), targets, prior=prior)


CLASSIFICATION = {
    "cross-entropy": classification_loss,
    "asymmetric": asymmetric_loss,
    "asymmetric, small exponents": lambda z, y: asymmetric_loss(z, y, gamma_pos=0.5, gamma_neg=0.5, margin=0.1),
    "asymmetric, no margin": lambda z, y: asymmetric_loss(z, y, gamma_pos=1, gamma_neg=2, margin=0),
    "backdoor": _backdoor,
}
LOSSES = {
    **CLASSIFICATION,
    "uniform, categorical": lambda z, y: uniform_kl_loss(z),
    "uniform, bernoulli": lambda z, y: uniform_kl_loss(z, uniform="bernoulli"),
}

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, 0.0, 0.3], [1.0, NAN, 0.0, NAN], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
