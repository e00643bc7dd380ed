"""Area under the ROC curve per label, over all images and in the worst group.

The area under the ROC curve is the Mann-Whitney statistic: the probability that a positive image scores higher than a
negative one, with ties counting one half (Hanley & McNeil, Radiology 143, 1982)

    AUROC = [ sum_{p, n} 1(s_p > s_n) + 1/2 1(s_p = s_n) ] / (P N),   P positives p, N negatives n.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from causalcxr.metrics._inputs import FloatArray, IntArray, check_inputs, group_indices, warn_undefined

__all__ = ["auroc", "worst_group_auroc"]

ONE_CLASS = "their known targets lack positives or negatives"


def auroc(scores: Any, targets: Any) -> FloatArray:
    """Compute the area under the ROC curve of each label, exact even with ties.

    Args:
        scores: Logits, probabilities or other scores, where higher means more likely; array, tensor (any floating
            dtype, any device) or nested list. Only their order matters.
        targets: 1 positive, 0 negative, NaN unknown. An unknown target excludes the image for that label only.

    Shape:
        scores and targets: (N, K), or (N,) for a single label, which is read as (N, 1). Result: (K,), always.

    Returns:
        AUROC of each label in float64. NaN for a label without both positives and negatives, with a warning that lists
        these labels by index.

    Raises:
        ValueError: Shapes differ or are not (N, K), there are no images, a score is NaN or infinite, or a target is
            not 0, 1 or NaN.

    Example:
        >>> auroc([[0.9], [0.4], [0.4], [0.1]], [[1], [1], [0], [0]])
        array([0.875])
    """
    result = _auroc(*check_inputs(scores, targets))
    warn_undefined(result, "AUROC", ONE_CLASS)
    return result


def worst_group_auroc(scores: Any, targets: Any, groups: Any) -> FloatArray:
    """Compute the lowest AUROC of each label over groups of images, e.g. views, sexes or hospitals.

    A model that infers a label from the view can have a high AUROC over all images, but only chance level within each
    view. The worst group reveals this (worst-group performance; Sagawa et al., ICLR 2020, who use accuracy).

    The minimum of several noisy values is biased downwards, especially with many small groups. Compare models on the
    same groups, and leave out groups with a handful of positives.

    Args:
        scores: As for [`auroc`][causalcxr.metrics.auroc].
        targets: As for [`auroc`][causalcxr.metrics.auroc].
        groups: Group of each image (numbers or strings).

    Shape:
        scores and targets: (N, K), or (N,) for a single label. groups: (N,). Result: (K,), always.

    Returns:
        The lowest AUROC of each label in float64, over the groups with both of its classes. NaN for a label without
        such a group, with a warning that lists these labels by index.

    Raises:
        ValueError: Scores or targets are invalid (see `auroc`), or groups have the wrong length or missing values.

    Example:
        >>> scores, targets = [[0.9], [0.1], [0.4], [0.6]], [[1], [0], [1], [0]]
        >>> worst_group_auroc(scores, targets, ["AP", "AP", "PA", "PA"])
        array([0.])
    """
    values, labels = check_inputs(scores, targets)
    members = group_indices(groups, len(values))
    of_groups = [_auroc(values[members == group], labels[members == group]) for group in range(members.max() + 1)]
    result: FloatArray = np.fmin.reduce(of_groups, axis=0)  # NaN only if every group is NaN
    warn_undefined(result, "AUROC", "no group has both positives and negatives")
    return result


class Ranking(NamedTuple):
    """Images of one label sorted by score, each represented by its group index."""

    negatives: IntArray  # groups of the negatives
    positives: IntArray  # groups of the positives
    below: IntArray  # number of negatives with a lower score, for each positive
    up_to: IntArray  # number of negatives with a lower or equal score, for each positive


def rank_labels(scores: FloatArray, targets: FloatArray, members: IntArray) -> list[Ranking]:
    """Sort the images of each label by score (N, K); `members` (N,) are their group indices."""
    rankings = []
    for k in range(scores.shape[1]):
        order = np.argsort(scores[:, k])
        negatives, positives = order[targets[order, k] == 0], order[targets[order, k] == 1]
        low, high = scores[negatives, k], scores[positives, k]
        below, up_to = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
        rankings.append(Ranking(members[negatives], members[positives], below, up_to))
    return rankings


def weighted_auroc(ranking: Ranking, multiplicities: IntArray) -> float:
    """Return the AUROC with images weighted by the count of their group (G,), or NaN if a class has zero weight."""
    cumulative = np.zeros(len(ranking.negatives) + 1, dtype=np.int64)
    np.cumsum(multiplicities.take(ranking.negatives), out=cumulative[1:])
    positives = multiplicities.take(ranking.positives)
    pairs = positives.sum() * cumulative[-1]
    if pairs == 0:
        return math.nan
    # Twice the statistic, an integer: a negative below a positive counts in both sums, a tie in one.
    doubled = positives @ (cumulative.take(ranking.below) + cumulative.take(ranking.up_to))
    return float(doubled / (2 * pairs))


def _auroc(scores: FloatArray, targets: FloatArray) -> FloatArray:
    each_once = np.ones(len(scores), dtype=np.int64)
    rankings = rank_labels(scores, targets, np.arange(len(scores)))
    return np.array([weighted_auroc(ranking, each_once) for ranking in rankings])
