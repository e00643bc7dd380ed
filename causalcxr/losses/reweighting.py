"""Weights of labels under which an observed confounder is independent of them."""

import torch
from torch import Tensor

from causalcxr._checks import check_tensor

__all__ = ["backdoor_weights"]


def backdoor_weights(targets: Tensor, strata: Tensor) -> Tensor:
    r"""Weights that make an observed confounder independent of every label (backdoor adjustment by weighting).

    .. math:: w_{ik} = \frac{P(y_k) P(c)}{P(y_k, c)} \quad\text{at}\quad y_k = y_{ik}, \; c = c_i

    A loss weighted so is, for each label, an unbiased estimate of the loss under P(y_k) P(c), where the confounder
    tells nothing of the label (Pearl, *Causality*, 2009, section 3.3; inverse probability weighting). Probabilities are
    frequencies in `targets`: give the whole training set, once, not a batch.

    Args:
        targets: (N, K) labels, 0 or 1; NaN where unknown (weight 0).
        strata: (N,) integers, the confounder's value c for each image (view, site, device).

    Returns:
        (N, K) weights, float32. Over the known labels they average to 1 where every combination of label and stratum
        occurs; a combination that never occurs cannot be weighted up, and the average is then below 1.

    Raises:
        ValueError: If shapes do not fit or a target is not 0, 1 or NaN.
        TypeError: If targets are not of floating point or strata not of integers.

    Example:
        >>> import torch
        >>> backdoor_weights(torch.tensor([[1.0], [1.0], [0.0], [1.0]]), torch.tensor([0, 0, 1, 1])).squeeze()
        tensor([0.7500, 0.7500, 0.5000, 1.5000])
    """
    check_tensor("targets", targets, "N K")
    if not isinstance(strata, Tensor) or strata.is_floating_point() or strata.is_complex():
        raise TypeError(
            f"strata must be a tensor of integers, but got {getattr(strata, 'dtype', type(strata).__name__)}"
        )
    if strata.shape != targets.shape[:1]:
        raise ValueError(f"strata must have shape (N,) = ({len(targets)},), but got {tuple(strata.shape)}")
    known = ~targets.isnan()
    if not bool(((targets == 0) | (targets == 1) | ~known).all()):
        raise ValueError("targets must be 0, 1 or NaN to be weighted, but got other values")
    values, stratum_of = strata.unique(return_inverse=True)
    stratum_of = stratum_of.to(targets.device)

    def count(member: Tensor) -> Tensor:
        """Return how many images are members in the stratum of each, (N, K)."""
        counts = torch.zeros(len(values), targets.shape[1], dtype=torch.float64, device=targets.device)
        return counts.index_add(0, stratum_of, member.double())[stratum_of]

    in_stratum, total = count(known), known.sum(dim=0)
    weights = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
    for value in (0, 1):
        member = targets == value
        joint = count(member)
        expected = member.sum(dim=0) * in_stratum / total
        weights = torch.where(member, expected / joint, weights)
    return weights.float()
