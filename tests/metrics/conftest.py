"""Random scores with unknown targets, and scikit-learn as the reference for them."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score


def _problem(n: int = 200, k: int = 3, models: int = 3, decimals: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((n, k)) < np.linspace(0.2, 0.7, k)).astype(float)
    scores = (rng.normal(size=(models, n, k)) + targets).round(decimals)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    return scores, targets, np.arange(n) // 5


def _sklearn(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = ~np.isnan(targets[:, k])
        if len(set(targets[known, k])) == 2:
            result[k] = roc_auc_score(targets[known, k], scores[known, k])
    return result


@pytest.fixture
def problem() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Function that draws scores (models, N, K), with ties, targets, and patients of five images each."""
    return _problem


@pytest.fixture
def sklearn_auroc() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function that asks scikit-learn label by label: unknown targets dropped, NaN where a label has one class."""
    return _sklearn
