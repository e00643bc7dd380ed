"""Does a classifier of chest radiographs rely on a confounder? Data with a known one, and the figures that tell."""

from causalcxr.bench._resampling import Interval
from causalcxr.bench.confounded import ConfoundedDataset
from causalcxr.bench.images import StratifiedImages
from causalcxr.bench.markers import MARKERS, marker_opacity, paint
from causalcxr.bench.probe import linear_probe
from causalcxr.bench.report import BenchResult, Scores, as_dict, evaluate, measure
from causalcxr.bench.scoring import Predictions, attention_share, predict
from causalcxr.bench.structural import DoError, StructuralCXR, do_error
from causalcxr.bench.subsampling import subsample

__all__ = [
    "MARKERS",
    "BenchResult",
    "ConfoundedDataset",
    "DoError",
    "Interval",
    "Predictions",
    "Scores",
    "StratifiedImages",
    "StructuralCXR",
    "as_dict",
    "attention_share",
    "do_error",
    "evaluate",
    "linear_probe",
    "marker_opacity",
    "measure",
    "paint",
    "predict",
    "subsample",
]
