"""Area under the ROC curve of each label, exact with ties, over all images and in the worst group.

The area under the ROC curve is the Mann-Whitney statistic: the probability that a positive image scores higher than a
negative one, ties counting one half (Hanley & McNeil, Radiology 143, 1982)

    AUROC = [ sum_{p, n} 1(s_p > s_n) + 1/2 1(s_p = s_n) ] / (P N),   P positives p, N negatives n.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from causalcxr.metrics._inputs import FloatArray, IntArray, check_inputs, group_indices, warn_undefined

__all__ = ["auroc", "worst_group_auroc"]

ONE_CLASS = "their known targets are all of one class"


def auroc(scores: Any, targets: Any) -> FloatArray:
    """Area under the ROC curve of each label, exact with ties: one division of integers.

    Args:
        scores: Logits, probabilities or any other scores, higher for more likely; array, tensor (any floating type, any
            device) or nested list. Only their order matters.
        targets: 1 positive, 0 negative, NaN unknown. An unknown target leaves that image out for that label only.

    Shape:
        scores and targets: (N, K), or (N,) for a single label, which is read as (N, 1). Result: (K,), always.

    Returns:
        AUROC of each label in float64. A label with positives only, negatives only or no known target has none: NaN,
        with a warning that names the labels by index.

    Raises:
        ValueError: Shapes differ or are not (N, K), no images, a score that is NaN or infinite, a target that is not
            0, 1 or NaN.

    Example:
        >>> auroc([[0.9], [0.4], [0.4], [0.1]], [[1], [1], [0], [0]])
        array([0.875])
    """
    result = _auroc(*check_inputs(scores, targets))
    warn_undefined(result, "AUROC", ONE_CLASS)
    return result


def worst_group_auroc(scores: Any, targets: Any, groups: Any) -> FloatArray:
    """Lowest AUROC of each label among groups of images, such as views, sexes or hospitals.

    A model that reads a label off the view can have a high AUROC over all images and none within each view. The lowest
    group shows it (worst-group performance; Sagawa et al., ICLR 2020, there for accuracy).

    The lowest of several noisy values lies below every group's true one, the more so with small and many groups.
    Compare models on the same groups, and leave out groups with a handful of positives.

    Args:
        scores: As for [`auroc`][causalcxr.metrics.auroc].
        targets: As for [`auroc`][causalcxr.metrics.auroc].
        groups: Group of each image (numbers or strings).

    Shape:
        scores and targets: (N, K), or (N,) for a single label. groups: (N,). Result: (K,), always.

    Returns:
        The lowest AUROC of each label in float64, among the groups that have both its classes. A label with no such
        group has none: NaN, with a warning that names the labels by index.

    Raises:
        ValueError: Bad scores or targets (see `auroc`), groups of another length or with missing values.

    Example:
        >>> scores, targets = [[0.9], [0.1], [0.4], [0.6]], [[1], [0], [1], [0]]
        >>> worst_group_auroc(scores, targets, ["AP", "AP", "PA", "PA"])
        array([0.])
    """
    values, labels = check_inputs(scores, targets)
    members = group_indices(groups, len(values))
    of_groups = [_auroc(values[members == group], labels[members == group]) for group in range(members.max() + 1)]
    result: FloatArray = np.fmin.reduce(of_groups, axis=0)  # NaN only where every group is
    warn_undefined(result, "AUROC", "no group has both classes among their known targets")
    return result


class Ranking(NamedTuple):
    """One label's images in the order of their scores, each image given by its group."""

    negatives: IntArray  # groups of the negatives
    positives: IntArray  # groups of the positives
    below: IntArray  # for each positive, how many negatives score less
    up_to: IntArray  # for each positive, how many negatives score no more: those below and its ties


def rank_labels(scores: FloatArray, targets: FloatArray, members: IntArray) -> list[Ranking]:
    """Sort the images (N, K) of each label once; `members` (N,) are their groups."""
    rankings = []
    for k in range(scores.shape[1]):
        order = np.argsort(scores[:, k])
        negatives, positives = order[targets[order, k] == 0], order[targets[order, k] == 1]
        low, high = scores[negatives, k], scores[positives, k]
        below, up_to = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
        rankings.append(Ranking(members[negatives], members[positives], below, up_to))
    return rankings


def weighted_auroc(ranking: Ranking, multiplicities: IntArray) -> float:
    """AUROC with every image taken as often as its group (G,) is; NaN where one class is not taken at all."""
    cumulative = np.zeros(len(ranking.negatives) + 1, dtype=np.int64)
    np.cumsum(multiplicities.take(ranking.negatives), out=cumulative[1:])
    positives = multiplicities.take(ranking.positives)
    pairs = positives.sum() * cumulative[-1]
    if pairs == 0:
        return math.nan
    # Twice the statistic, an integer: a negative below a positive is in both sums, a tie in one of them.
    doubled = positives @ (cumulative.take(ranking.below) + cumulative.take(ranking.up_to))
    return float(doubled / (2 * pairs))


def _auroc(scores: FloatArray, targets: FloatArray) -> FloatArray:
    each_once = np.ones(len(scores), dtype=np.int64)
    rankings = rank_labels(scores, targets, np.arange(len(scores)))
    return np.array([weighted_auroc(ranking, each_once) for ranking in rankings])
