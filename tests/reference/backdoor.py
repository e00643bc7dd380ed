"""The backdoor intervention, pair by pair (arXiv 2305.12072, Eq. 1, 6 and 7).

z_ij = Phi(h_x[i] + h_c[j])   or   Phi([h_x[i], h_c[j]])
P(Y | do(X)) = sum_c P(c) sigmoid(Phi(h_x + c))
P(c_s) of stored confounder s = P(stratum of s) / (stored confounders of that stratum), scaled to sum to 1
"""

import torch

from reference.group_linear import group_linear


def intervene(causal, confounder, weight, bias, *, combine):
    """Return z (K,) for one image's causal features (K, D) and one confounder (K, D)."""
    joined = causal + confounder if combine == "add" else torch.cat([causal, confounder], dim=-1)
    return group_linear(joined, weight, bias)


def intervene_all(causal, confounders, weight, bias, *, combine):
    """Return z (B, S, K) of every image with every confounder."""
    phi = {"weight": weight, "bias": bias, "combine": combine}
    return torch.stack([torch.stack([intervene(x, c, **phi) for c in confounders]) for x in causal])


def intervene_others(causal, confounder, weight, bias, *, combine):
    """Return z (B, B - 1, K) of every image with the confounders of the images after it, wrapping around."""
    z = intervene_all(causal, confounder, weight, bias, combine=combine)
    batch = len(z)
    return torch.stack([z[i, [j % batch for j in range(i + 1, i + batch)]] for i in range(batch)])


def predict_do(causal, confounders, prior, weight, bias, *, combine):
    """Return P(Y | do(X)), (B, K)."""
    z = intervene_all(causal, confounders, weight, bias, combine=combine)
    return sum(p / (1 + (-z[:, s]).exp()) for s, p in enumerate(prior))
