"""AUROC of images taken several times each, over bootstrap resamples, and the percentile interval."""

import math
from typing import NamedTuple

import numpy as np

from causalcxr.metrics._inputs import FloatArray, IntArray

__all__ = ["auroc_once", "check_options", "resample_auroc", "summarise"]


def check_options(n_resamples: int, confidence: float) -> None:
    """Raise `ValueError` where nothing would be drawn or the interval has no such ends."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")


def auroc_once(scores: FloatArray, targets: FloatArray) -> FloatArray:
    """AUROC (K,) of scores and targets (N, K), every image taken once; NaN where a label has one class."""
    each_once = np.ones(len(scores), dtype=np.int64)
    rankings = _rank_labels(scores, targets, np.arange(len(scores)))
    return np.array([_weighted_auroc(ranking, each_once) for ranking in rankings])


def resample_auroc(
    runs: FloatArray, targets: FloatArray, members: IntArray, n_resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """AUROC, averaged over training runs, on all images and on resamples of their groups.

    What is drawn depends on the seed and the number of groups alone, never on the scores: two calls with the same seed
    and members see the same resamples.

    Args:
        runs: Scores (R, N, K).
        targets: Targets (N, K).
        members: Group of each image (N,), numbered from 0.
        n_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The AUROC on all images (K,), and on each resample (n_resamples, K).
    """
    if members.max() == 0:
        raise ValueError("a bootstrap needs at least two groups (or images) to draw from, got 1")
    num_groups = int(members.max()) + 1
    rankings = [_rank_labels(scores, targets, members) for scores in runs]

    def mean_over_runs(multiplicities: IntArray) -> FloatArray:
        return np.mean([[_weighted_auroc(label, multiplicities) for label in run] for run in rankings], axis=0)

    rng = np.random.default_rng(seed)
    resamples = np.empty((n_resamples, targets.shape[1]))
    for row in resamples:
        row[:] = mean_over_runs(np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups))
    return mean_over_runs(np.ones(num_groups, dtype=np.int64)), resamples


def summarise(
    point: FloatArray, resamples: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray, FloatArray, float, float, float, FloatArray]:
    """Point, low, high, mean, mean_low, mean_high and resamples, the fields of a result."""
    low, high = _percentile_interval(resamples, confidence)
    mean_low, mean_high = _percentile_interval(_mean_over_labels(resamples)[:, None], confidence)
    mean = _mean_over_labels(point[None])[0]
    return point, low, high, float(mean), float(mean_low[0]), float(mean_high[0]), resamples


class _Ranking(NamedTuple):
    """One label's images in the order of their scores, each image given by its group."""

    negatives: IntArray  # groups of the negatives
    positives: IntArray  # groups of the positives
    below: IntArray  # for each positive, how many negatives score less
    up_to: IntArray  # for each positive, how many negatives score no more: those below and its ties


def _rank_labels(scores: FloatArray, targets: FloatArray, members: IntArray) -> list[_Ranking]:
    rankings = []
    for k in range(scores.shape[1]):
        order = np.argsort(scores[:, k])
        negatives, positives = order[targets[order, k] == 0], order[targets[order, k] == 1]
        low, high = scores[negatives, k], scores[positives, k]
        below, up_to = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
        rankings.append(_Ranking(members[negatives], members[positives], below, up_to))
    return rankings


def _weighted_auroc(ranking: _Ranking, multiplicities: IntArray) -> float:
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


def _mean_over_labels(values: FloatArray) -> FloatArray:
    """Mean of each row over its defined entries, NaN where there are none."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _percentile_interval(resamples: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Ends of the percentile interval of each column, over its defined entries."""
    ends = np.full((2, resamples.shape[1]), np.nan)
    defined = ~np.isnan(resamples).all(axis=0)
    if defined.any():
        levels = [(1 - confidence) / 2, (1 + confidence) / 2]
        ends[:, defined] = np.nanquantile(resamples[:, defined], levels, axis=0)
    return ends[0], ends[1]
