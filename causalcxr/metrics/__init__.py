"""Metrics for multi-label classifiers: ranking, comparison, calibration and localisation."""

from causalcxr.metrics.bootstrap import BootstrapResult, Interval, bootstrap_auroc, paired_difference
from causalcxr.metrics.calibration import ReliabilityCurve, expected_calibration_error, reliability_curve
from causalcxr.metrics.localisation import box_iou, peak_box, pointing_game
from causalcxr.metrics.roc import auroc, worst_group_auroc

__all__ = [
    "BootstrapResult",
    "Interval",
    "ReliabilityCurve",
    "auroc",
    "bootstrap_auroc",
    "box_iou",
    "expected_calibration_error",
    "paired_difference",
    "peak_box",
    "pointing_game",
    "reliability_curve",
    "worst_group_auroc",
]
