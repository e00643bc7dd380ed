"""Intervals of AUROCs, and of the difference of two models, from resamples of patients.

Intervals are percentiles over resamples (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
Images of one patient are not independent, so patients are drawn instead of images where `groups` is given (cluster
bootstrap; Field & Welsh, J. R. Stat. Soc. B 69, 2007). Two models that are compared see the same resamples.
"""

from typing import Any, NamedTuple

import numpy as np

from causalcxr.metrics._inputs import FloatArray, IntArray, check_inputs, group_indices, to_float64, warn_undefined
from causalcxr.metrics.roc import ONE_CLASS, rank_labels, weighted_auroc

__all__ = ["BootstrapResult", "Interval", "bootstrap_auroc", "paired_difference"]


class Interval(NamedTuple):
    """A figure and the ends of its interval; NaN where it is undefined.

    Attributes:
        value: The figure on the images as they are: a number, or one for each label (K,).
        low: Lower end.
        high: Upper end.
    """

    value: Any
    low: Any
    high: Any

    @classmethod
    def from_resamples(cls, value: Any, resamples: Any, *, confidence: float = 0.95) -> "Interval":
        """Percentile interval over resamples; those that are NaN are left out.

        Args:
            value: The figure itself, a number or (K,).
            resamples: The figure on each of R resamples, (R,) or (R, K).
            confidence: Coverage, between 0 and 1.

        Example:
            >>> Interval.from_resamples(0.5, [0.1, 0.4, 0.5, 0.6, 0.9], confidence=0.5)
            Interval(value=0.5, low=0.4, high=0.6)
        """
        resampled = np.asarray(resamples, dtype=np.float64)
        columns = resampled.reshape(len(resampled), -1)
        ends = np.full((2, columns.shape[1]), np.nan)
        defined = ~np.isnan(columns).all(axis=0)
        if defined.any():
            levels = [(1 - confidence) / 2, (1 + confidence) / 2]
            ends[:, defined] = np.nanquantile(columns[:, defined], levels, axis=0)
        if resampled.ndim == 1:
            return cls(float(value), float(ends[0, 0]), float(ends[1, 0]))
        return cls(value, ends[0], ends[1])


class BootstrapResult(NamedTuple):
    """Figures with percentile intervals, from `bootstrap_auroc` and `paired_difference`.

    The AUROC of a label with few positive patients is hardly known, and resamples without any of them say nothing of
    it. So read `positive_groups`, `undefined` and `incomplete` beside the intervals.

    Attributes:
        per_label: [`Interval`][causalcxr.metrics.Interval] of each label, three arrays (K,). NaN where a label has one
            class only.
        mean: `Interval` of the mean over labels, three numbers.
        num_labels: Over how many labels `mean` is: those that have both classes.
        positives: Number of positive images of each label (K,).
        positive_groups: Number of groups, such as patients, with a positive image of each label (K,).
        undefined: Number of resamples in which each label has one class only (K,). The label's interval leaves them
            out.
        incomplete: Number of resamples that lack one of the `num_labels` labels. Their mean is over the other labels.
        resamples: The figure on each resample (R, K), NaN where the resample has one class only.
        confidence: Coverage of the intervals.
    """

    per_label: Interval
    mean: Interval
    num_labels: int
    positives: IntArray
    positive_groups: IntArray
    undefined: IntArray
    incomplete: int
    resamples: FloatArray
    confidence: float

    def mean_over(self, labels: Any) -> Interval:
        """The mean over some of the labels, on the same resamples.

        Args:
            labels: Indices, or a mask (K,).

        Raises:
            ValueError: None of these labels has both classes.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> targets = rng.random((300, 3)) < [0.5, 0.3, 0.02]
            >>> result = bootstrap_auroc(targets + rng.normal(size=(300, 3)), targets, n_resamples=50)
            >>> enough = result.positive_groups >= 10
            >>> int(enough.sum()), result.num_labels, round(result.mean_over(enough).value, 2)
            (2, 3, 0.74)
        """
        value, resamples = self.per_label.value[labels], self.resamples[:, labels]
        if np.isnan(value).all():
            raise ValueError("none of these labels has both classes, so they have no mean")
        return _mean_interval(value, resamples, self.confidence)


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

    Each resample draws as many groups as there are, with replacement. It takes all images of a drawn group as often as
    the group was drawn. Without `groups` every image is a group of its own. Where a patient has several images,
    intervals over images are too narrow: pass the patients.

    A resample is a vector of multiplicities m, in which the statistic is

        AUROC* = sum_{p, n} m_p m_n [1(s_p > s_n) + 1/2 1(s_p = s_n)] / (sum_p m_p sum_n m_n).

    The interval at confidence c is [quantile_{(1 - c)/2}, quantile_{(1 + c)/2}] over the resamples (Efron's percentile
    interval). Scores are sorted once a label, and a resample costs one cumulative sum in that order. What is drawn
    depends on the seed and the number of groups alone.

    Args:
        scores: As for [`auroc`][causalcxr.metrics.auroc].
        targets: As for [`auroc`][causalcxr.metrics.auroc].
        groups: What is drawn, such as the patient of each image (numbers or strings); None draws images.
        n_resamples: Number of resamples R.
        confidence: Coverage of the intervals, between 0 and 1.
        seed: Seed of the draws. The same seed gives the same result.

    Shape:
        scores and targets: (N, K), or (N,) for a single label. groups: (N,).

    Returns:
        A [`BootstrapResult`][causalcxr.metrics.BootstrapResult].

    Raises:
        ValueError: Bad scores or targets (see `auroc`), groups of another length, with missing values or fewer than
            two, `n_resamples` below 1, `confidence` outside (0, 1).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> targets = rng.integers(0, 2, size=(300, 2))
        >>> result = bootstrap_auroc(targets + rng.normal(size=(300, 2)), targets, np.arange(300) // 3, n_resamples=100)
        >>> bool(result.mean.low < result.mean.value < result.mean.high)
        True
        >>> result.num_labels, result.positives, result.positive_groups, result.undefined
        (2, array([157, 165]), array([85, 92]), array([0, 0]))
    """
    values, labels = check_inputs(scores, targets)
    members = np.arange(len(values)) if groups is None else group_indices(groups, len(values))
    _check_options(members, n_resamples, confidence)
    aurocs = _resample(values[None], labels, members, n_resamples, seed)
    warn_undefined(aurocs[0], "AUROC", ONE_CLASS)
    return _summarise(aurocs, labels, members, confidence)


def paired_difference(
    scores: Any,
    baseline: Any,
    targets: Any,
    groups: Any = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapResult:
    """AUROC of one model less that of another, with percentile intervals from a bootstrap that both share.

    Two models judged on the same patients share the luck of the draw, so the interval of their difference is narrower
    than their two intervals suggest. On every resample of the groups, drawn as by
    [`bootstrap_auroc`][causalcxr.metrics.bootstrap_auroc],

        difference* = mean_r AUROC*(scores_r) - mean_r AUROC*(baseline_r),

    where r counts the training runs of each side; a side given without a leading axis is one run. The two sides may
    have different numbers of runs. AUROCs are averaged, not scores: the result is about one model trained this way,
    not about an ensemble.

    The interval holds the chance in the choice of patients, and not that of training once more with other seeds. For
    that, look at the runs one by one.

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
        A [`BootstrapResult`][causalcxr.metrics.BootstrapResult] of the differences. An interval that holds zero means
        that these patients do not tell the two apart.

    Raises:
        ValueError: A side has another shape than the targets after its runs, no runs, or runs of different shapes; bad
            scores, targets, groups or options (see `bootstrap_auroc`).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> targets = rng.integers(0, 2, size=(300, 2))
        >>> good, better = targets + rng.normal(size=(300, 2)), 2 * targets + rng.normal(size=(300, 2))
        >>> result = paired_difference(better, good, targets, np.arange(300) // 3, n_resamples=100)
        >>> bool(0 < result.mean.low < result.mean.value < result.mean.high)
        True
    """
    runs, labels = _check_runs(scores, targets, "scores")
    baseline_runs, _ = _check_runs(baseline, targets, "baseline")
    members = np.arange(len(labels)) if groups is None else group_indices(groups, len(labels))
    _check_options(members, n_resamples, confidence)
    differences = _resample(runs, labels, members, n_resamples, seed)
    differences -= _resample(baseline_runs, labels, members, n_resamples, seed)  # the same draws
    warn_undefined(differences[0], "AUROC", ONE_CLASS)
    return _summarise(differences, labels, members, confidence)


def _check_runs(scores: Any, targets: Any, name: str) -> tuple[FloatArray, FloatArray]:
    """Scores (R, N, K) and targets (N, K) in float64; scores of the targets' shape are one run."""
    if isinstance(scores, (list, tuple)):  # perhaps of tensors, which NumPy cannot always read
        parts = [to_float64(part) for part in scores]
        shapes = sorted({part.shape for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"{name} of several runs must all have the same shape, got {shapes}")
        scores = np.stack(parts) if parts else np.empty(0)
    values, labels = to_float64(scores), to_float64(targets)
    if values.shape == labels.shape:
        values = values[None]
    if values.shape[1:] != labels.shape or len(values) == 0:
        raise ValueError(
            f"{name} must have the shape of the targets, {labels.shape}, or one leading axis of training runs before "
            f"it, got {values.shape}"
        )
    runs = [check_inputs(run, labels, name)[0] for run in values]
    return np.stack(runs), labels.reshape(len(labels), -1)


def _check_options(members: IntArray, n_resamples: int, confidence: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    if members.max() == 0:
        raise ValueError("a bootstrap needs at least two groups (or images) to draw from, got 1")


def _resample(runs: FloatArray, targets: FloatArray, members: IntArray, n_resamples: int, seed: int) -> FloatArray:
    """AUROC (1 + n_resamples, K), averaged over the runs (R, N, K): on the images as they are, then on resamples."""
    num_groups = int(members.max()) + 1
    rankings = [rank_labels(scores, targets, members) for scores in runs]
    rng = np.random.default_rng(seed)
    aurocs = np.empty((n_resamples + 1, targets.shape[1]))
    taken = np.ones(num_groups, dtype=np.int64)
    for row in aurocs:
        row[:] = np.mean([[weighted_auroc(label, taken) for label in run] for run in rankings], axis=0)
        taken = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
    return aurocs


def _summarise(figures: FloatArray, targets: FloatArray, members: IntArray, confidence: float) -> BootstrapResult:
    """The result of the figures (1 + R, K): on the images as they are, then on R resamples."""
    value, resamples = figures[0], figures[1:]
    counted = ~np.isnan(value)
    missing = np.isnan(resamples)
    return BootstrapResult(
        per_label=Interval.from_resamples(value, resamples, confidence=confidence),
        mean=_mean_interval(value, resamples, confidence),
        num_labels=int(counted.sum()),
        positives=(targets == 1).sum(axis=0),
        positive_groups=np.array([len(np.unique(members[column == 1])) for column in targets.T]),
        undefined=missing.sum(axis=0),
        incomplete=int(missing[:, counted].any(axis=1).sum()),
        resamples=resamples,
        confidence=confidence,
    )


def _mean_interval(value: FloatArray, resamples: FloatArray, confidence: float) -> Interval:
    mean, *means = _mean_over_labels(np.vstack([value, resamples]))
    return Interval.from_resamples(mean, means, confidence=confidence)


def _mean_over_labels(values: FloatArray) -> FloatArray:
    """Mean of each row over its defined entries, NaN where there are none."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
