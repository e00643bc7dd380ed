"""AUROCs of several tests on the same resamples of patients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from causalcxr.metrics import bootstrap_auroc

__all__ = ["Aurocs", "Interval", "groups_of", "interval", "resample_tests"]

FloatArray = npt.NDArray[np.float64]
Aurocs = dict[tuple[str, int | None], FloatArray]
"""(Name of a test, stratum or `None` for all images) to (1 + R,) AUROCs, on all images and on each of R resamples."""


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def interval(values: FloatArray) -> Interval:
    """The figure on all images, the first of the values, and the percentiles of those on resamples, the others."""
    resampled = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(resampled, [0.025, 0.975]) if len(resampled) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def groups_of(test: Any) -> npt.NDArray[Any]:
    """What is drawn: the patient of each image (N,), or its index."""
    patient = getattr(test, "patient", None)
    return np.arange(len(test.strata)) if patient is None else np.asarray(patient)


def resample_tests(logits: Mapping[str, Tensor], tests: Mapping[str, Any], n_resamples: int, seed: int) -> Aurocs:
    """AUROC of each test, and within each stratum that has both classes.

    All are labels of one bootstrap, unknown for the images of other tests and strata, so that what is drawn is shared.

    Args:
        logits: Name of the test to logits (N,).
        tests: Name to data set.
        n_resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        AUROCs of each test and stratum.
    """
    keys: list[tuple[str, int | None]] = []
    columns = []
    for name, test in tests.items():
        target, strata = test.targets.reshape(-1).double().numpy(), test.strata.reshape(-1).numpy()
        for stratum in (None, 0, 1):
            chosen = target if stratum is None else np.where(strata == stratum, target, np.nan)
            if len(np.unique(chosen[~np.isnan(chosen)])) == 2:
                keys.append((name, stratum))
                columns.append([chosen if other == name else np.full(len(logits[other]), np.nan) for other in tests])
    scores = np.concatenate([logits[name].double().numpy() for name in tests])
    result = bootstrap_auroc(
        np.repeat(scores[:, None], len(keys), axis=1),
        np.stack([np.concatenate(column) for column in columns], axis=1),
        np.concatenate([groups_of(test) for test in tests.values()]),
        n_resamples=n_resamples,
        seed=seed,
    )
    values = np.concatenate([result.auroc[None], result.resamples])
    return dict(zip(keys, values.T, strict=True))
