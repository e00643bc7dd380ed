"""Random scores with unknown targets, a stand-in for a data frame, and a scikit-learn reference."""

import numpy as np
from sklearn.metrics import roc_auc_score


class Frame:
    """A minimal stand-in for a data frame."""

    def __init__(self, values, columns=()):
        self.values, self.columns, self.to_numpy = values, columns, values.copy

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def draw(n=200, k=3, models=3, decimals=1):
    """Return scores (models, N, K) with ties, targets with some unknown, and patients with five images each."""
    rng = np.random.default_rng(0)
    targets = (rng.random((n, k)) < np.linspace(0.2, 0.7, k)).astype(float)
    scores = (rng.normal(size=(models, n, k)) + targets).round(decimals)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    return scores, targets, np.arange(n) // 5


def sklearn_auroc(scores, targets):
    """Return the AUROC of each label without unknown targets, NaN where only one class occurs."""
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = ~np.isnan(targets[:, k])
        if len(set(targets[known, k])) == 2:
            result[k] = roc_auc_score(targets[known, k], scores[known, k])
    return result
