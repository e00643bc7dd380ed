"""Area under the ROC curve per label, exact with ties, and its bootstrap intervals.

The area under the ROC curve is the Mann-Whitney statistic: the probability that a positive image scores higher than a
negative one, ties counting one half (Hanley & McNeil, Radiology 143, 1982)

    AUROC = [ sum_{p, n} 1(s_p > s_n) + 1/2 1(s_p = s_n) ] / (P N),   P positives p, N negatives n.

Intervals are percentiles over resamples (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
Images of one patient are not independent, so patients are drawn instead of images where `groups` is given (cluster
bootstrap; Field & Welsh, J. R. Stat. Soc. B 69, 2007).
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["BootstrapResult", "auroc", "bootstrap_auroc"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class BootstrapResult(NamedTuple):
    """AUROC with percentile intervals, from [`bootstrap_auroc`][causalcxr.metrics.bootstrap_auroc].

    Attributes:
        auroc: AUROC of each label on the given images (K,), NaN where a label has one class only.
        low: Lower end of each label's interval (K,).
        high: Upper end of each label's interval (K,).
        mean: Mean of `auroc` over the labels where it is defined.
        mean_low: Lower end of the interval of the mean.
        mean_high: Upper end of the interval of the mean.
        resamples: AUROC of each resample (n_resamples, K), NaN where the resample has one class only.
    """

    auroc: FloatArray
    low: FloatArray
    high: FloatArray
    mean: float
    mean_low: float
    mean_high: float
    resamples: FloatArray


def auroc(scores: Any, targets: Any) -> FloatArray:
    """Area under the ROC curve of each label, exact with ties.

    The Mann-Whitney form of Hanley & McNeil (1982): the number of negatives below a positive plus half the number of
    those equal to it, averaged over the positives. Counted in integers, so the only rounding is that of one division.

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
    values, labels = _check_inputs(scores, targets)
    each_once = np.ones(len(values), dtype=np.int64)
    rankings = _rank_labels(values, labels, np.arange(len(values)))
    result = np.array([_weighted_auroc(ranking, each_once) for ranking in rankings])
    _warn_undefined(result)
    return result


def bootstrap_auroc(
    scores: Any,
    targets: Any,
    groups: Any = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapResult:
    """AUROC of each label and of their mean, with percentile intervals from a bootstrap over images or over groups.

    Each resample draws as many groups as there are, with replacement, and takes all images of a drawn group as often as
    it was drawn; without `groups` every image is a group of its own. The interval of a statistic t at confidence c is
    [quantile_{(1 - c)/2}(t*), quantile_{(1 + c)/2}(t*)] over the resampled t* (Efron's percentile interval). Where a
    patient has several images, intervals over images are too narrow: pass the patients.

    A resample is a vector of multiplicities m, in which the statistic is

        AUROC* = sum_{p, n} m_p m_n [1(s_p > s_n) + 1/2 1(s_p = s_n)] / (sum_p m_p sum_n m_n).

    The scores are therefore sorted once a label, and a resample costs one cumulative sum of the negatives'
    multiplicities in that order, read off at the positives. All sums are of integers, so nothing is rounded before the
    one division. The work is single-threaded and needs memory for a few copies of the inputs, whatever the number of
    resamples.

    Args:
        scores: As for [`auroc`][causalcxr.metrics.auroc].
        targets: As for [`auroc`][causalcxr.metrics.auroc].
        groups: What is drawn, such as the patient of each image (numbers or strings); None draws images.
        n_resamples: Number of resamples.
        confidence: Coverage of the intervals, between 0 and 1.
        seed: Seed of the draws. The same seed gives the same result.

    Shape:
        scores and targets: (N, K), or (N,) for a single label. groups: (N,).

    Returns:
        A [`BootstrapResult`][causalcxr.metrics.BootstrapResult]. A label that has one class only in a resample is NaN
        there; its interval ignores that resample, and the resample's mean is over the other labels. With few positive
        groups such resamples are many: `np.isnan(result.resamples).mean(axis=0)` is their share.

    Raises:
        ValueError: Bad scores or targets (see `auroc`), groups of another length, with missing values or fewer than
            two, `n_resamples` below 1, `confidence` outside (0, 1).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> targets = rng.integers(0, 2, size=(300, 2))
        >>> result = bootstrap_auroc(targets + rng.normal(size=(300, 2)), targets, np.arange(300) // 3, n_resamples=100)
        >>> bool((result.low < result.auroc).all() and (result.auroc < result.high).all())
        True
    """
    values, labels = _check_inputs(scores, targets)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    members = _group_indices(groups, len(values))

    rankings = _rank_labels(values, labels, members)
    num_groups = int(members.max()) + 1
    each_once = np.ones(num_groups, dtype=np.int64)
    point = np.array([_weighted_auroc(ranking, each_once) for ranking in rankings])
    _warn_undefined(point)

    rng = np.random.default_rng(seed)
    resamples = np.empty((n_resamples, len(rankings)))
    for row in resamples:
        drawn = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        row[:] = [_weighted_auroc(ranking, drawn) for ranking in rankings]

    low, high = _percentile_interval(resamples, confidence)
    mean_low, mean_high = _percentile_interval(_mean_over_labels(resamples)[:, None], confidence)
    mean = _mean_over_labels(point[None])[0]
    return BootstrapResult(point, low, high, float(mean), float(mean_low[0]), float(mean_high[0]), resamples)


def _to_float64(values: Any) -> FloatArray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()  # NumPy has no bfloat16
    return np.asarray(values, dtype=np.float64)


def _check_inputs(scores: Any, targets: Any) -> tuple[FloatArray, FloatArray]:
    values, labels = _to_float64(scores), _to_float64(targets)
    if values.shape != labels.shape:
        raise ValueError(f"scores and targets must have the same shape, got {values.shape} and {labels.shape}")
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"scores and targets must be (N, K), or (N,) for one label, and not empty; got {values.shape}")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"scores must be finite, got NaN or infinity in {count} of {values.size} values")
    allowed = (labels == 0) | (labels == 1) | np.isnan(labels)
    if not allowed.all():
        raise ValueError(f"targets must be 0, 1 or NaN (unknown), got {labels[~allowed][0]:g}")
    return values.reshape(len(values), -1), labels.reshape(len(labels), -1)


def _warn_undefined(result: FloatArray) -> None:
    undefined = np.flatnonzero(np.isnan(result)).tolist()
    if undefined:
        message = f"AUROC is undefined (NaN) for labels {undefined}: their known targets are all of one class"
        warnings.warn(message, stacklevel=3)


def _group_indices(groups: Any, num_images: int) -> IntArray:
    """Number the groups from 0; the group of each image (N,)."""
    if groups is None:
        members = np.arange(num_images)
    else:
        names = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else groups)
        if names.shape != (num_images,):
            raise ValueError(f"groups must name one group an image, shape ({num_images},), got {names.shape}")
        listed = groups.tolist() if hasattr(groups, "tolist") else list(groups)  # before NumPy writes NaN as "nan"
        missing = sum(name is None or name != name for name in listed)
        if missing:
            raise ValueError(f"groups must not have missing values, got {missing} of {num_images}")
        members = np.unique(names, return_inverse=True)[1]
    if members.max() == 0:
        raise ValueError("a bootstrap needs at least two groups (or images) to draw from, got 1")
    return members


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
