"""Calibration: how well predicted probabilities match the observed frequency of a finding."""

from typing import Any, NamedTuple

import numpy as np

from causalcxr._checks import check_count
from causalcxr.metrics._inputs import FloatArray, IntArray, check_inputs, warn_undefined

__all__ = ["ReliabilityCurve", "expected_calibration_error", "reliability_curve"]


class ReliabilityCurve(NamedTuple):
    """Predicted probability and observed frequency, from [`reliability_curve`][causalcxr.metrics.reliability_curve].

    Attributes:
        confidence: Mean predicted probability in each bin (K, n_bins), NaN in empty bins.
        frequency: Share of positives in each bin (K, n_bins), NaN in empty bins.
        size: Number of images with a known target in each bin (K, n_bins).
    """

    confidence: FloatArray
    frequency: FloatArray
    size: IntArray


def reliability_curve(probabilities: Any, targets: Any, *, n_bins: int = 15) -> ReliabilityCurve:
    """Compute the points of a reliability diagram: mean prediction and frequency per label, in bins of equal width.

    Bin m = 1 ... M holds the probabilities in ((m - 1)/M, m/M]; the first bin includes 0 (Guo et al., ICML 2017,
    Eq. 2). Each label is a binary problem: probabilities are those of the positive class, not of the predicted class.

    Args:
        probabilities: Predicted probability of the finding, in [0, 1]; array, tensor or nested list.
        targets: 1 positive, 0 negative, NaN unknown. An unknown target excludes the image for that label only.
        n_bins: Number of bins M.

    Shape:
        probabilities and targets: (N, K), or (N,) for a single label, which is read as (N, 1).
        Each field of the result: (K, n_bins).

    Returns:
        A [`ReliabilityCurve`][causalcxr.metrics.ReliabilityCurve].

    Raises:
        ValueError: Probabilities are outside [0, 1], NaN or infinite; shapes differ or are not (N, K); there are no
            images; a target is not 0, 1 or NaN; or `n_bins` is not a positive integer.

    Example:
        >>> curve = reliability_curve([0.1, 0.3, 0.9], [0, 1, 1], n_bins=2)
        >>> curve.confidence, curve.frequency, curve.size
        (array([[0.2, 0.9]]), array([[0.5, 1. ]]), array([[2, 1]]))
    """
    values, labels = check_inputs(probabilities, targets, "probabilities")
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"probabilities must lie in [0, 1], got values from {low:g} to {high:g}; apply a sigmoid to logits first"
        )
    check_count("n_bins", n_bins)
    inner_edges = np.arange(1, n_bins) / n_bins
    shape = (values.shape[1], n_bins)
    curve = ReliabilityCurve(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64))
    for k in range(values.shape[1]):
        known = ~np.isnan(labels[:, k])
        predicted, observed = values[known, k], labels[known, k]
        bins = np.searchsorted(inner_edges, predicted, side="left")
        count = np.bincount(bins, minlength=n_bins)
        full = count > 0
        curve.size[k] = count
        curve.confidence[k, full] = np.bincount(bins, predicted, minlength=n_bins)[full] / count[full]
        curve.frequency[k, full] = np.bincount(bins, observed, minlength=n_bins)[full] / count[full]
    return curve


def expected_calibration_error(probabilities: Any, targets: Any, *, n_bins: int = 15) -> FloatArray:
    """Compute the expected calibration error of each label: |prediction - frequency| per bin, averaged over images.

    With N_m of N images in bin m,

        ECE = sum_m N_m / N |frequency_m - confidence_m|

    (Naeini et al., AAAI 2015; Guo et al., ICML 2017, Eq. 3), in the bins of
    [`reliability_curve`][causalcxr.metrics.reliability_curve].

    It does not measure ranking: predicting the label's frequency for every image gives zero error, and rare labels have
    a small error for the same reason. Noise within the bins does not cancel, so even a calibrated model has an error
    above zero, especially with few images. Read it together with the AUROC.

    Args:
        probabilities: As for `reliability_curve`.
        targets: As for `reliability_curve`.
        n_bins: Number of bins.

    Shape:
        probabilities and targets: (N, K), or (N,) for a single label. Result: (K,), always.

    Returns:
        The error of each label, from 0 to 1, in float64. NaN for a label without known targets, with a warning that
        lists these labels by index.

    Raises:
        ValueError: As for `reliability_curve`.

    Example:
        >>> expected_calibration_error([0.5, 0.5, 0.75, 0.75], [0, 1, 1, 1])
        array([0.125])
    """
    curve = reliability_curve(probabilities, targets, n_bins=n_bins)
    gap = np.nan_to_num(np.abs(curve.frequency - curve.confidence))  # empty bins have zero weight
    with np.errstate(invalid="ignore"):  # 0 / 0 for a label without known targets
        error = (curve.size * gap).sum(axis=1) / curve.size.sum(axis=1)
    warn_undefined(error, "calibration error", "they have no known targets")
    return error
