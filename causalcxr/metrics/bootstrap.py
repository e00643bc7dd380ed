"""Bootstrap intervals for AUROCs and for the difference between two models.

Intervals are percentiles over resamples (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
Images of one patient are not independent, so pass `groups` to resample patients instead of images (cluster bootstrap;
Field & Welsh, J. R. Stat. Soc. B 69, 2007). A comparison of two models uses the same resamples for both.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from causalcxr._checks import check_count
from causalcxr.data.labels import checked_names
from causalcxr.metrics._inputs import FloatArray, IntArray, check_inputs, group_indices, warn_undefined
from causalcxr.metrics.roc import ONE_CLASS, rank_labels, weighted_auroc

__all__ = ["BootstrapResult", "Interval", "bootstrap_auroc", "paired_difference"]


class Interval(NamedTuple):
    """A value and its interval; NaN where undefined.

    Attributes:
        value: Value on the original images: a number, or one per label (K,).
        low: Lower end.
        high: Upper end.
    """

    value: Any
    low: Any
    high: Any

    @classmethod
    def from_resamples(cls, value: Any, resamples: Any, *, confidence: float = 0.95) -> "Interval":
        """Build the percentile interval over resamples, ignoring NaN.

        Args:
            value: Value on the original images, a number or (K,).
            resamples: Value on each of R resamples, (R,) or (R, K).
            confidence: Coverage, between 0 and 1.

        Example:
            >>> Interval.from_resamples(0.5, [0.1, 0.4, 0.5, 0.6, 0.9], confidence=0.5)
            Interval(value=0.5, low=0.4, high=0.6)
        """
        resampled = np.asarray(resamples, dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
            low, high = np.nanquantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return cls(float(value), float(low), float(high)) if resampled.ndim == 1 else cls(value, low, high)


class BootstrapResult(NamedTuple):
    """AUROCs or differences with percentile intervals, from `bootstrap_auroc` and `paired_difference`.

    With fewer than about ten positive patients, intervals are too narrow, and intervals of differences exclude zero too
    often. Check `positive_groups`, `undefined` and `incomplete` before you trust an interval. For the mean over a
    subset of labels, pass the mean of their columns of `resamples` to `Interval.from_resamples`.

    Attributes:
        per_label: [`Interval`][causalcxr.metrics.Interval] of each label, three arrays (K,). NaN for a label with only
            one class.
        mean: `Interval` of the mean over labels, three numbers.
        num_labels: Number of labels in `mean`, i.e. those with both classes.
        positives: Number of positive images per label (K,).
        positive_groups: Number of groups, e.g. patients, with a positive image, per label (K,).
        undefined: Number of resamples with only one class, per label (K,). The label's interval ignores them.
        incomplete: Number of resamples that lack one of the `num_labels` labels. Their mean is over the other labels.
        resamples: Value on each resample (R, K), NaN if the resample has only one class.
    """

    per_label: Interval
    mean: Interval
    num_labels: int
    positives: IntArray
    positive_groups: IntArray
    undefined: IntArray
    incomplete: int
    resamples: FloatArray

    def by_label(self, label_names: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """Return a JSON-ready dictionary by label, the `metrics` of [`save_pretrained`][causalcxr.save_pretrained].

        Args:
            label_names: Unique names of the K labels.

        Returns:
            `{"mean": {"value", "low", "high", "labels", "incomplete"}, "Mass": {"value", "low", "high", "positives",
            "positive_groups"}, ...}`, for the labels with both classes. None replaces NaN.

        Raises:
            ValueError: `label_names` does not have one unique name per label.

        Example:
            >>> result = bootstrap_auroc([[0.1, 0.3], [0.7, 0.2]], [[0, 1], [1, 0]], n_resamples=10)
            >>> list(result.by_label(["Mass", "Hernia"]))
            ['mean', 'Mass', 'Hernia']
        """
        names = checked_names(label_names or (), len(self.positives)) or ()
        mean = self.mean._asdict() | {"labels": self.num_labels, "incomplete": self.incomplete}
        counts = {"positives": self.positives, "positive_groups": self.positive_groups}
        columns = self.per_label._asdict() | counts
        each = zip(*(column.tolist() for column in columns.values()), strict=True)
        labels = {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, each, strict=True)}
        rows = {"mean": mean} | {name: row for name, row in labels.items() if np.isfinite(row["value"])}
        return {name: {k: None if v != v else v for k, v in row.items()} for name, row in rows.items()}


def bootstrap_auroc(
    scores: Any,
    targets: Any,
    groups: Any = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapResult:
    """Compute the AUROC of each label and their mean, with bootstrap percentile intervals over images or groups.

    If patients have several images, intervals over images are too narrow: pass the patients as `groups`. Each resample
    draws as many groups as there are, with replacement. An image counts m times if its group was drawn m times:

        AUROC* = sum_{p, n} m_p m_n [1(s_p > s_n) + 1/2 1(s_p = s_n)] / (sum_p m_p sum_n m_n).

    The interval at confidence c runs from quantile (1 - c)/2 to quantile (1 + c)/2 of the resamples.

    Args:
        scores: As for [`auroc`][causalcxr.metrics.auroc].
        targets: As for [`auroc`][causalcxr.metrics.auroc].
        groups: Group of each image (numbers or strings), e.g. its patient. Groups are resampled; None resamples images.
        n_resamples: Number of resamples R.
        confidence: Coverage of the intervals, between 0 and 1.
        seed: Random seed. The draws depend only on it and on the number of groups.

    Shape:
        scores and targets: (N, K), or (N,) for a single label. groups: (N,).

    Returns:
        A [`BootstrapResult`][causalcxr.metrics.BootstrapResult].

    Raises:
        ValueError: Scores or targets are invalid (see `auroc`); groups have the wrong length, missing values or fewer
            than two distinct values; `n_resamples` is not a positive integer; or `confidence` is outside (0, 1).

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
    members = _members(groups, len(values), n_resamples, confidence)
    aurocs = _resample(values, labels, members, n_resamples, seed)
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
    """Compute the AUROC of one model minus that of another, with intervals from a paired bootstrap.

    Both models are scored on the same resamples, so shared sampling noise cancels: the interval of the difference is
    narrower than their separate intervals suggest. Each resample gives AUROC*(scores) - AUROC*(baseline), with the
    draws of [`bootstrap_auroc`][causalcxr.metrics.bootstrap_auroc].

    The interval covers the sampling of patients, not the variation between training seeds. To compare training methods
    over several runs, average the `resamples` of `bootstrap_auroc` over the runs of each method and pass the difference
    to `Interval.from_resamples`. The same seed and groups give the same draws.

    Arguments, shapes and errors are those of `bootstrap_auroc`. `baseline` holds the scores of the model to compare
    with, for the same images in the same order.

    Returns:
        A [`BootstrapResult`][causalcxr.metrics.BootstrapResult] of the differences. If an interval contains zero, the
        data do not show a difference.

    Example:
        >>> targets, noise = np.tile([0, 1], 50), np.random.default_rng(0).normal(size=100)
        >>> result = paired_difference(2 * targets + noise, targets + noise, targets, n_resamples=100)
        >>> bool(0 < result.mean.low < result.mean.value < result.mean.high)
        True
    """
    values, labels = check_inputs(scores, targets)
    others, _ = check_inputs(baseline, targets, "baseline")
    members = _members(groups, len(values), n_resamples, confidence)
    differences = _resample(values, labels, members, n_resamples, seed)
    differences -= _resample(others, labels, members, n_resamples, seed)  # the same draws
    warn_undefined(differences[0], "AUROC", ONE_CLASS)
    return _summarise(differences, labels, members, confidence)


def _members(groups: Any, num_images: int, n_resamples: int, confidence: float) -> IntArray:
    """Check the options and return the group index of each image (N,)."""
    members = np.arange(num_images) if groups is None else group_indices(groups, num_images)
    check_count("n_resamples", n_resamples)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, e.g. 0.95, got {confidence}")
    if members.max() == 0:
        raise ValueError("a bootstrap needs at least two groups (or images) to draw from, got 1")
    return members


def _resample(scores: FloatArray, targets: FloatArray, members: IntArray, n_resamples: int, seed: int) -> FloatArray:
    """Return AUROCs (1 + n_resamples, K): on the original images, then on each resample."""
    num_groups = int(members.max()) + 1
    rankings = rank_labels(scores, targets, members)
    rng = np.random.default_rng(seed)
    aurocs = np.empty((n_resamples + 1, targets.shape[1]))
    taken = np.ones(num_groups, dtype=np.int64)
    for row in aurocs:
        row[:] = [weighted_auroc(ranking, taken) for ranking in rankings]
        taken = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
    return aurocs


def _summarise(figures: FloatArray, targets: FloatArray, members: IntArray, confidence: float) -> BootstrapResult:
    """Summarise values (1 + R, K): on the original images, then on R resamples."""
    defined = ~np.isnan(figures)
    counted = defined[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no label is defined
        mean = np.nanmean(figures, axis=1)
    return BootstrapResult(
        per_label=Interval.from_resamples(figures[0], figures[1:], confidence=confidence),
        mean=Interval.from_resamples(mean[0], mean[1:], confidence=confidence),
        num_labels=int(counted.sum()),
        positives=(targets == 1).sum(axis=0),
        positive_groups=np.array([len(np.unique(members[column == 1])) for column in targets.T]),
        undefined=(~defined[1:]).sum(axis=0),
        incomplete=int((~defined[1:, counted]).any(axis=1).sum()),
        resamples=figures[1:],
    )
