"""Cross-attention with a causal and a confounding output (arXiv 2305.12072, Eq. 2), row by row.

    A_n = softmax_n(q . k_n / sqrt(d))   over the tokens n
    Q = sum_n A_n v_n,   Qc = sum_n (1 - A_n) v_n   ("paper"),   Qc / (N - 1)   ("normalized", 0 for N = 1)

for each head of width d, then both through the output projection.
"""

import math

import torch
from torch import Tensor


def disentangled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: dict[str, Tensor],
    *,
    num_heads: int,
    complement: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the causal (B, K, D), the confounding (B, K, D) and A (B, heads, K, N)."""
    q, k, v = (_linear(x, weights, name) for x, name in ((query, "q_proj"), (key, "k_proj"), (value, "v_proj")))
    batch, num_queries, dim = q.shape
    num_tokens, d = k.shape[1], dim // num_heads
    causal, confounder = torch.zeros_like(q), torch.zeros_like(q)
    attention = torch.zeros(batch, num_heads, num_queries, num_tokens, dtype=q.dtype)
    for b in range(batch):
        tokens = range(num_tokens)
        for head in range(num_heads):
            part = slice(head * d, (head + 1) * d)
            for i in range(num_queries):
                logits = torch.stack([(q[b, i, part] * k[b, n, part]).sum() / math.sqrt(d) for n in tokens])
                exponentials = (logits - logits.max().detach()).exp()
                row = exponentials / exponentials.sum()
                for a, n in zip(row, tokens, strict=True):
                    attention[b, head, i, n] = a
                    causal[b, i, part] = causal[b, i, part] + a * v[b, n, part]
                    rest = (1 - a) * v[b, n, part]
                    if complement == "normalized":
                        rest = rest / (len(tokens) - 1) if len(tokens) > 1 else 0 * rest
                    confounder[b, i, part] = confounder[b, i, part] + rest
    return _linear(causal, weights, "out_proj"), _linear(confounder, weights, "out_proj"), attention


def _linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    out = torch.einsum("oi,bni->bno", weights[f"{name}.weight"], x)
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out
