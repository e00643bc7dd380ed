"""How well a linear classifier reads the confounder from features."""

from typing import Any

import numpy as np
import torch

from causalcxr.bench._inputs import check_binary
from causalcxr.metrics import auroc

__all__ = ["linear_probe"]


def linear_probe(features_train: Any, strata_train: Any, features_test: Any, strata_test: Any) -> float:
    """AUROC with which a logistic regression on features tells whether the confounder is there (Alain & Bengio, 2016).

    Features are standardised by their mean and deviation in training, and the regression has the L2 penalty that
    scikit-learn has by default (C = 1). Neither is chosen, so there is nothing to choose on test images.

    Take images on which the confounder is independent of the finding (correlation 0.5). On others a probe reads the
    confounder from features of the finding alone, since the one predicts the other.

    Args:
        features_train: Features that the probe is trained on.
        strata_train: Whether the confounder is there, zeros and ones.
        features_test: Features of other images, best of other patients.
        strata_test: Whether the confounder is there.

    Shape:
        features: (N, ...), flattened to (N, D). strata: (N,).

    Returns:
        0.5 where the features do not tell, 1 where they tell linearly.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: Shapes do not fit, features are not finite, or a set lacks images with or without the confounder.

    Example:
        >>> strata = np.arange(100) % 2
        >>> features = np.random.default_rng(0).normal(size=(100, 8)) + strata[:, None]
        >>> linear_probe(features[:50], strata[:50], features[50:], strata[50:]) > 0.9
        True
    """
    make_pipeline, scaler, regression = import_sklearn()
    train, train_strata = _check("train", features_train, strata_train)
    test, test_strata = _check("test", features_test, strata_test)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"features_train and features_test must be as wide, got {train.shape[1]} and {test.shape[1]}")
    probe = make_pipeline(scaler(), regression(max_iter=5000)).fit(train, train_strata)
    return float(auroc(probe.decision_function(test), test_strata)[0])


def import_sklearn() -> tuple[Any, Any, Any]:
    """`make_pipeline`, `StandardScaler` and `LogisticRegression` of scikit-learn."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "a linear probe needs scikit-learn, which is in the extra: pip install 'causalcxr[train]'"
        ) from error
    return make_pipeline, StandardScaler, LogisticRegression


def _check(name: str, features: Any, strata: Any) -> tuple[Any, Any]:
    values = np.asarray(torch.as_tensor(features).detach().cpu().double())
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"features_{name} must be (N, D) and not empty, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"features_{name} must be finite, got {np.sum(~np.isfinite(values))} values that are not")
    present = check_binary(f"strata_{name}", strata, len(values)).numpy()
    if present.min() == present.max():
        raise ValueError(f"strata_{name} must have images with and without the confounder, got {present[0]} only")
    return values.reshape(len(values), -1), present
