"""Label weights that make an observed confounder independent of the labels."""

import math
import warnings

import torch
from torch import Tensor

from causalcxr._checks import check_tensor

__all__ = ["backdoor_weights"]


def backdoor_weights(targets: Tensor, strata: Tensor, *, smoothing: float = 0.0) -> Tensor:
    r"""Return weights that make an observed confounder independent of every label (backdoor adjustment by weighting).

    .. math:: w_{ik} = \frac{P(y_k) P(c)}{P(y_k, c)} \quad\text{at}\quad y_k = y_{ik}, \; c = c_i

    A loss with these weights is an unbiased estimate of the loss under P(y_k) P(c), where the confounder carries no
    information about the label (Pearl, *Causality*, 2009, section 3.3; inverse probability weighting). Probabilities
    are frequencies in `targets`, so call this once with the whole training set, not with a batch.

    With a single label, you can sample images by these weights instead (`torch.utils.data.WeightedRandomSampler`).

    Images of a rare combination of label and stratum get large weights, which makes the loss noisy. `smoothing` bounds
    them but leaves some association. A combination that never occurs causes a warning: no weight can make up for it.

    Args:
        targets: (N, K) labels, 0 or 1, or NaN where unknown (weight 0).
        strata: (N,) integers, the confounder's value c for each image (e.g. view, site or device).
        smoothing: Pseudo-count added to every combination of label and stratum (Laplace smoothing).

    Returns:
        (N, K) float32 weights. Without smoothing, their mean over the known labels is 1. It is less if a label and a
        stratum both occur, but never together.

    Raises:
        ValueError: If shapes do not match, a target is not 0, 1 or NaN, or `smoothing` is negative or not finite.
        TypeError: If targets are not a floating-point tensor or strata not an integer tensor.

    Example:
        >>> import torch
        >>> backdoor_weights(torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1, 1])).squeeze()
        tensor([1.2000, 0.8000, 1.2000, 0.9000, 0.9000])
    """
    check_tensor("targets", targets, "N K")
    if not isinstance(strata, Tensor) or strata.is_floating_point():
        given = strata.dtype if isinstance(strata, Tensor) else f"{type(strata).__name__}; pass torch.as_tensor(strata)"
        raise TypeError(f"strata must be a tensor of integers, but got {given}")
    if strata.shape != (len(targets),):
        raise ValueError(f"strata must have shape ({len(targets)},), but got {tuple(strata.shape)}")
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing must be a number of images, 0 or more, but got {smoothing!r}")
    known = ~targets.isnan()
    if not bool(((targets == 0) | (targets == 1) | ~known).all()):
        raise ValueError("targets must be 0, 1 or NaN to be weighted, but got other values")
    values, stratum_of = strata.unique(return_inverse=True)
    stratum_of = stratum_of.to(targets.device)
    members = torch.stack([targets == 0, targets == 1]).double()  # (2, N, K)
    joint = members.new_zeros(2, len(values), targets.shape[1]).index_add(1, stratum_of, members)
    _warn_of_empty(joint, values)
    joint = joint + smoothing
    of_label, of_stratum = joint.sum(dim=1, keepdim=True), joint.sum(dim=0, keepdim=True)
    weights = of_label * of_stratum / (joint.sum(dim=(0, 1)) * joint)  # (2, strata, K); not finite in empty cells
    return torch.where(members.bool(), weights[:, stratum_of], 0.0).sum(dim=0).float()


def _warn_of_empty(joint: Tensor, values: Tensor) -> None:
    """Warn about counts (2, strata, K) of 0 for combinations whose label and stratum both occur."""
    empty = ((joint == 0) & joint.any(dim=1, keepdim=True) & joint.any(dim=0, keepdim=True)).nonzero()
    if len(empty):
        value, stratum, label = empty[0].tolist()
        warnings.warn(
            f"{len(empty)} combinations of label and stratum have no image, such as label {label} = {value} in stratum "
            f"{int(values[stratum])}; no weight can make up for them, so the confounder still predicts the label there",
            stacklevel=3,
        )
