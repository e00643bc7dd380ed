"""Metrics for multi-label classifiers: ranking, comparison, calibration and localisation."""

from causalcxr.metrics.bootstrap import BootstrapResult, Interval, bootstrap_auroc, paired_difference
from causalcxr.metrics.calibration import ReliabilityCurve, expected_calibration_error, reliability_curve
from causalcxr.metrics.localisation import pointing_game
from causalcxr.metrics.roc import auroc, worst_group_auroc

__all__ = [
    "BootstrapResult",
    "Interval",
    "ReliabilityCurve",
    "auroc",
    "bootstrap_auroc",
    "expected_calibration_error",
    "paired_difference",
    "pointing_game",
    "reliability_curve",
    "worst_group_auroc",
]
