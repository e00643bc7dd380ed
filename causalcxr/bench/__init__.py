"""Does a classifier of chest radiographs rely on a confounder? Data with a known one, and the figures that tell."""

from causalcxr.bench.datasets import ConfoundedDataset, StratifiedImages
from causalcxr.bench.evaluation import BenchResult, Scores, as_dict, evaluate
from causalcxr.bench.markers import MARKERS, paint
from causalcxr.bench.scoring import Predictions, predict
from causalcxr.bench.subsampling import subsample

__all__ = [
    "MARKERS",
    "BenchResult",
    "ConfoundedDataset",
    "Predictions",
    "Scores",
    "StratifiedImages",
    "as_dict",
    "evaluate",
    "paint",
    "predict",
    "subsample",
]
