"""Benchmark of how much a chest radiograph classifier relies on a known confounder: datasets and metrics."""

from causalcxr.bench.datasets import ConfoundedDataset, StratifiedImages
from causalcxr.bench.evaluation import BenchResult, Scores, as_dict, evaluate
from causalcxr.bench.markers import MARKERS, paint
from causalcxr.bench.scoring import predict
from causalcxr.bench.subsampling import subsample

__all__ = [
    "MARKERS",
    "BenchResult",
    "ConfoundedDataset",
    "Scores",
    "StratifiedImages",
    "as_dict",
    "evaluate",
    "paint",
    "predict",
    "subsample",
]
