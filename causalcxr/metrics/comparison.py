"""Comparing classifiers on the same images, and one classifier among groups of images.

Two models judged on the same patients share the luck of the draw, so the interval of their difference is narrower than
their two intervals suggest: both are evaluated on the same resamples (paired bootstrap; Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993).
"""

from typing import Any, NamedTuple

import numpy as np

from causalcxr.metrics._inputs import ONE_CLASS, FloatArray, check_inputs, check_runs, group_indices, warn_undefined
from causalcxr.metrics._resampling import auroc_once, check_options, resample_auroc, summarise

__all__ = ["PairedDifference", "paired_difference", "worst_group_auroc"]


class PairedDifference(NamedTuple):
    """Difference of two AUROCs, from [`paired_difference`][causalcxr.metrics.paired_difference].

    Attributes:
        difference: AUROC of the scores less AUROC of the baseline, each label (K,), NaN where a label has one class
            only.
        low: Lower end of each label's interval (K,).
        high: Upper end of each label's interval (K,).
        mean: Mean of `difference` over the labels where it is defined.
        mean_low: Lower end of the interval of the mean.
        mean_high: Upper end of the interval of the mean.
        resamples: Difference on each resample (n_resamples, K), NaN where the resample has one class only.
    """

    difference: FloatArray
    low: FloatArray
    high: FloatArray
    mean: float
    mean_low: float
    mean_high: float
    resamples: FloatArray


def paired_difference(
    scores: Any,
    baseline: Any,
    targets: Any,
    groups: Any = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """AUROC of one model less that of another, with percentile intervals from a bootstrap that both share.

    On every resample of the groups, drawn as by [`bootstrap_auroc`][causalcxr.metrics.bootstrap_auroc],

        difference* = mean_r AUROC*(scores_r) - mean_r AUROC*(baseline_r),

    where r counts the training runs of each side; a side given without a leading axis is one run. The two sides may
    have different numbers of runs. AUROCs are averaged, not scores: the result is about one model trained this way,
    not about an ensemble.

    With several runs the interval is that of the difference between the means over these very runs. It holds the chance
    in the choice of patients, not that of training once more with other seeds: for that, look at the runs one by one.

    The time is that of `bootstrap_auroc` times the number of runs of both sides.

    Args:
        scores: Logits, probabilities or any other scores, higher for more likely; array, tensor, or list of one for
            each run.
        baseline: Scores of the model to compare with, on the same images in the same order.
        targets: 1 positive, 0 negative, NaN unknown.
        groups: What is drawn, such as the patient of each image (numbers or strings); None draws images.
        n_resamples: Number of resamples.
        confidence: Coverage of the intervals, between 0 and 1.
        seed: Seed of the draws. The same seed gives the same result.

    Shape:
        targets: (N, K), or (N,) for a single label. scores and baseline: as the targets, or (R, N, K) and (R, N) with R
        training runs. groups: (N,).

    Returns:
        A [`PairedDifference`][causalcxr.metrics.PairedDifference]. An interval that holds zero means that these
        patients do not tell the two apart. Labels and resamples of one class are NaN, left out as by `bootstrap_auroc`.

    Raises:
        ValueError: A side has another shape than the targets after its runs, no runs, or runs of different shapes; bad
            scores, targets, groups or options (see `bootstrap_auroc`).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> targets = rng.integers(0, 2, size=(300, 2))
        >>> good, better = targets + rng.normal(size=(300, 2)), 2 * targets + rng.normal(size=(300, 2))
        >>> result = paired_difference(better, good, targets, np.arange(300) // 3, n_resamples=100)
        >>> bool(0 < result.mean_low < result.mean < result.mean_high)
        True
    """
    runs, labels = check_runs(scores, targets, "scores")
    baseline_runs, _ = check_runs(baseline, targets, "baseline")
    check_options(n_resamples, confidence)
    members = np.arange(len(labels)) if groups is None else group_indices(groups, len(labels))
    point, resamples = resample_auroc(runs, labels, members, n_resamples, seed)
    baseline_point, baseline_resamples = resample_auroc(baseline_runs, labels, members, n_resamples, seed)
    difference = point - baseline_point
    warn_undefined(difference, "AUROC", ONE_CLASS)
    return PairedDifference(*summarise(difference, resamples - baseline_resamples, confidence))


def worst_group_auroc(scores: Any, targets: Any, groups: Any) -> FloatArray:
    """Lowest AUROC of each label among groups of images, such as views, sexes or hospitals.

    A model that reads a label off the view can have a high AUROC over all images and none within each view. The lowest
    group shows it (worst-group performance; Sagawa et al., ICLR 2020, there for accuracy).

    The lowest of several noisy values lies below every group's true one, the more so the smaller and the more numerous
    the groups: compare models on the same groups, and leave out groups with a handful of positives.

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
    of_groups = [auroc_once(values[members == group], labels[members == group]) for group in range(members.max() + 1)]
    result: FloatArray = np.fmin.reduce(of_groups, axis=0)  # NaN only where every group is
    warn_undefined(result, "AUROC", "no group has both classes among their known targets")
    return result
