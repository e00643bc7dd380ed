"""Cross-attention with a causal and a confounding output (arXiv 2305.12072, Eq. 2), token by token.

    A_n = softmax_n(q . k_n / sqrt(d))   over the tokens n
    Q = sum_n A_n v_n,   Qc = sum_n (1 - A_n) v_n   ("paper"),   Qc / (N - 1)   ("normalized", 0 for N = 1)

for each head of width d, then both through the output projection.
"""

import math

import torch


def disentangled_attention(query, key, value, weights, *, num_heads, complement):
    """Return the causal (B, K, D), the confounding (B, K, D) and A (B, heads, K, N)."""
    q, k, v = (_linear(x, weights, name) for x, name in ((query, "q_proj"), (key, "k_proj"), (value, "v_proj")))
    q, k, v = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, K or N, d)
    tokens = range(k.shape[2])
    logits = torch.stack([(q * k[:, :, n, None]).sum(dim=-1) / math.sqrt(q.shape[-1]) for n in tokens], dim=-1)
    exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    attention = exponentials / exponentials.sum(dim=-1, keepdim=True)
    causal = sum(attention[..., n, None] * v[:, :, n, None] for n in tokens)
    confounder = sum((1 - attention[..., n, None]) * v[:, :, n, None] for n in tokens)
    if complement == "normalized":
        confounder = confounder / (len(tokens) - 1) if len(tokens) > 1 else 0 * confounder
    causal, confounder = (x.transpose(1, 2).flatten(2) for x in (causal, confounder))
    return _linear(causal, weights, "out_proj"), _linear(confounder, weights, "out_proj"), attention


def _linear(x, weights, name):
    out = torch.einsum("oi,bni->bno", weights[f"{name}.weight"], x)
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out
