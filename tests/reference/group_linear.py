"""One linear classifier per label: z_k = sum_d w_kd h_kd + b_k (Phi of arXiv 2305.12072, Eq. 3 and 6)."""

import torch


def group_linear(h, weight, bias):
    """Return the logits (K,) of the features (K, D) of one image."""
    num_labels, dim = weight.shape
    return torch.stack([sum(weight[k, d] * h[k, d] for d in range(dim)) + bias[k] for k in range(num_labels)])
