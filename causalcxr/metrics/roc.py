"""Area under the ROC curve per label, exact with ties, and its bootstrap intervals.

The area under the ROC curve is the Mann-Whitney statistic: the probability that a positive image scores higher than a
negative one, ties counting one half (Hanley & McNeil, Radiology 143, 1982)

    AUROC = [ sum_{p, n} 1(s_p > s_n) + 1/2 1(s_p = s_n) ] / (P N),   P positives p, N negatives n.

Intervals are percentiles over resamples (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
Images of one patient are not independent, so patients are drawn instead of images where `groups` is given (cluster
bootstrap; Field & Welsh, J. R. Stat. Soc. B 69, 2007).
"""

from typing import Any, NamedTuple

import numpy as np

from causalcxr.metrics._inputs import ONE_CLASS, FloatArray, check_inputs, group_indices, warn_undefined
from causalcxr.metrics._resampling import auroc_once, check_options, resample_auroc, summarise

__all__ = ["BootstrapResult", "auroc", "bootstrap_auroc"]


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
    result = auroc_once(*check_inputs(scores, targets))
    warn_undefined(result, "AUROC", ONE_CLASS)
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
    values, labels = check_inputs(scores, targets)
    check_options(n_resamples, confidence)
    members = np.arange(len(values)) if groups is None else group_indices(groups, len(values))
    point, resamples = resample_auroc(values[None], labels, members, n_resamples, seed)
    warn_undefined(point, "AUROC", ONE_CLASS)
    return BootstrapResult(*summarise(point, resamples, confidence))
