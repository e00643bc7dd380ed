"""The decoder of arXiv 2305.12072, Eq. 2, layer by layer.

Query = content (0 at first) + label embedding; key = token + position; value = token.

    Q, Qc = disentangled attention(content + label, token + position, token)
    content <- norm(content + Q);   content <- norm'(content + W2 gelu(W1 content + b1) + b2)

The causal feature is the content after the last layer, the confounding feature Qc of the last layer. The position of a
token at (row, col) holds sin(row w_f), sin(col w_f), cos(row w_f), cos(col w_f) for w_f = 10000^(-f / (D/4)).
"""

import math

import torch

from reference.comparison import part
from reference.cross_attention import disentangled_attention


def sincos_position(height, width, dim):
    """Return the positions (H * W, D)."""
    frequencies = [10000.0 ** (-f / (dim // 4)) for f in range(dim // 4)]
    rows = []
    for row in range(height):
        for col in range(width):
            rows.append([wave(at * w) for wave in (math.sin, math.cos) for at in (row, col) for w in frequencies])
    return torch.tensor(rows, dtype=torch.float64)


def causal_decoder(features, weights, position, *, depth, num_heads, complement):
    """Return the causal (B, K, D), the confounding (B, K, D) and the head-averaged attention (B, K, H, W)."""
    batch, dim, height, width = features.shape
    tokens = torch.stack([features[:, :, row, col] for row in range(height) for col in range(width)], dim=1)
    labels = weights["label_embed.weight"]
    content = torch.zeros(batch, len(labels), dim, dtype=features.dtype)
    for i in range(depth):
        own = part(weights, f"layers.{i}")
        given = content + labels, tokens + position, tokens, part(own, "attn")
        causal, confounder, attention = disentangled_attention(*given, num_heads=num_heads, complement=complement)
        content = _norm(content + causal, own, "norm1")
        content = _norm(content + two_layers(content, part(own, "mlp")), own, "norm2")
    mean = sum(attention[:, head] for head in range(num_heads)) / num_heads
    return content, confounder, mean.view(batch, len(labels), height, width)


def two_layers(x, weights):
    """Return W2 gelu(W1 x + b1) + b2, where gelu(x) = x P(Z < x) for a standard normal Z."""
    hidden = x @ weights["fc1.weight"].T + weights["fc1.bias"]
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return hidden @ weights["fc2.weight"].T + weights["fc2.bias"]


def _norm(x, weights, name):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]
