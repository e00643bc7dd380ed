"""The encoder of arXiv 2305.12072, Fig. 3, left.

    F = norm(W x)
    attention = ACmix(relu(norm(conv3x3(F)))) + ACmix'(relu(norm'(conv3x3'(F))))
    gate = conv1x1(F) + sigmoid(conv1x1'(mean over pixels of F)) F
    output = norm(W' [attention, gate])

norm is batch normalisation in evaluation, (f - mean) / sqrt(var + 1e-5) * gamma + beta for each channel.
"""

import torch

from reference.acmix import acmix, pointwise
from reference.comparison import part


def feature_learning(x, weights, *, num_heads):
    f = _norm(pointwise(x, weights["input_proj.0.weight"]), weights, "input_proj.1")
    channel, position = (_attention(f, weights, f"{kind}_attn", num_heads) for kind in ("channel", "position"))
    pooled = f.sum(dim=(2, 3), keepdim=True) / (f.shape[2] * f.shape[3])
    opening = 1 / (1 + (-pointwise(pooled, weights["gate_fc.weight"], weights["gate_fc.bias"])).exp())
    gate = pointwise(f, weights["gate_conv.weight"], weights["gate_conv.bias"]) + opening * f
    joined = torch.cat([channel + position, gate], dim=1)
    return _norm(pointwise(joined, weights["output_proj.0.weight"]), weights, "output_proj.1")


def _attention(f, weights, branch, num_heads):
    hidden = _norm(_convolution3x3(f, weights[f"{branch}.0.0.weight"]), weights, f"{branch}.0.1")
    return acmix(hidden.clamp(min=0), part(weights, f"{branch}.2"), num_heads=num_heads)


def _convolution3x3(f, weight):
    batch, _, height, width = f.shape
    padded = torch.zeros(batch, f.shape[1], height + 2, width + 2, dtype=f.dtype)
    padded[:, :, 1:-1, 1:-1] = f
    return sum(
        torch.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )


def _norm(f, weights, name):
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, gamma, beta = (weights[f"{name}.{each}"][:, None, None] for each in names)
    return (f - mean) / (variance + 1e-5).sqrt() * gamma + beta
