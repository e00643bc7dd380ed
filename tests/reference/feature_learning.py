"""The encoder of arXiv 2305.12072, Fig. 3, left.

    F = norm(W x)
    attention = ACmix(relu(norm(conv3x3(F)))) + ACmix'(relu(norm'(conv3x3'(F))))
    gate = conv1x1(F) + sigmoid(conv1x1'(mean over pixels of F)) F
    output = norm(W' [attention, gate])

norm is batch normalisation, (f - mean) / sqrt(var + 1e-5) * gamma + beta for each channel. Mean and variance are over
all pixels of all images in training, and the running ones in evaluation.
"""

import torch
from torch import Tensor

from reference.acmix import acmix, pointwise
from reference.comparison import part


def feature_learning(x: Tensor, weights: dict[str, Tensor], *, num_heads: int, training: bool = False) -> Tensor:
    f = _norm(pointwise(x, weights["input_proj.0.weight"]), weights, "input_proj.1", training)
    channel, position = (
        _attention(f, weights, f"{kind}_attn", num_heads, training) for kind in ("channel", "position")
    )
    pooled = f.sum(dim=(2, 3), keepdim=True) / (f.shape[2] * f.shape[3])
    opening = 1 / (1 + (-pointwise(pooled, weights["gate_fc.weight"], weights["gate_fc.bias"])).exp())
    gate = pointwise(f, weights["gate_conv.weight"], weights["gate_conv.bias"]) + opening * f
    joined = torch.cat([channel + position, gate], dim=1)
    return _norm(pointwise(joined, weights["output_proj.0.weight"]), weights, "output_proj.1", training)


def _attention(f: Tensor, weights: dict[str, Tensor], branch: str, num_heads: int, training: bool) -> Tensor:
    hidden = _norm(_convolution3x3(f, weights[f"{branch}.0.0.weight"]), weights, f"{branch}.0.1", training)
    return acmix(hidden.clamp(min=0), part(weights, f"{branch}.2"), num_heads=num_heads)


def _convolution3x3(f: Tensor, weight: Tensor) -> Tensor:
    batch, _, height, width = f.shape
    padded = torch.zeros(batch, f.shape[1], height + 2, width + 2, dtype=f.dtype)
    padded[:, :, 1:-1, 1:-1] = f
    return sum(
        torch.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )


def _norm(f: Tensor, weights: dict[str, Tensor], name: str, training: bool) -> Tensor:
    channels = []
    for c in range(f.shape[1]):
        mean, variance = weights[f"{name}.running_mean"][c], weights[f"{name}.running_var"][c]
        if training:
            mean = f[:, c].sum() / f[:, c].numel()
            variance = ((f[:, c] - mean) ** 2).sum() / f[:, c].numel()
        gamma, beta = weights[f"{name}.weight"][c], weights[f"{name}.bias"][c]
        channels.append((f[:, c] - mean) / (variance + 1e-5).sqrt() * gamma + beta)
    return torch.stack(channels, dim=1)
