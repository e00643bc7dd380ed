"""Evaluation of a classifier on tests that differ only in the confounder."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from causalcxr.bench.datasets import StratifiedImages
from causalcxr.bench.scoring import predict
from causalcxr.metrics import Interval, bootstrap_auroc, expected_calibration_error

__all__ = ["BenchResult", "Scores", "as_dict", "evaluate"]

Aurocs = dict[tuple[str, int | None], Any]
"""Maps (test name, stratum or `None` for all) to AUROCs (1 + R,): on the original images, then on each resample."""


class Scores(NamedTuple):
    """Metrics on one test.

    Attributes:
        auroc: AUROC of the finding, a 95 % `causalcxr.metrics.Interval`.
        worst_group: The lower of the AUROCs with and without the confounder (`causalcxr.metrics.worst_group_auroc`), or
            that of one group if the other lacks a class; an `Interval`. It is biased downwards if both are equal.
        undefined: Number of resamples that `worst_group` leaves out, since one of its groups lacks a class.
        ece: Expected calibration error.
        mean_probability: Mean of the predicted probabilities.
        shift: Mean probability with the confounder minus that without, averaged over positives and negatives; NaN if
            one of the four combinations has no image. For a painted marker with no association, this is its effect on
            the prediction.
    """

    auroc: Interval
    worst_group: Interval
    undefined: int
    ece: float
    mean_probability: float
    shift: float


class BenchResult(NamedTuple):
    """Metrics on all tests, from [`evaluate`][causalcxr.bench.evaluate].

    Attributes:
        tests: [`Scores`][causalcxr.bench.Scores] by test name.
        drop: AUROC on "same" minus AUROC on "reversed"; `None` without these two tests.
        gap: AUROC on "none" minus AUROC on "reversed": the loss relative to an uninformative confounder; `None` without
            these two tests.
    """

    tests: dict[str, Scores]
    drop: Interval | None
    gap: Interval | None


def evaluate(
    model: Callable[[Tensor], Tensor],
    tests: Mapping[str, StratifiedImages],
    *,
    label: int | str | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    n_resamples: int = 2000,
    seed: int = 0,
) -> BenchResult:
    """Run a classifier on all tests with [`predict`][causalcxr.bench.predict] and compute the metrics.

    Choose epochs, thresholds and hyperparameters on validation images with the association of the training images,
    never by the results on "reversed".

    Intervals are 95 % percentile intervals over resamples of patients if the tests have a `patient`, and otherwise of
    images. All tests are resampled together: a patient in two tests is drawn equally often in both, which narrows the
    intervals of differences. Without patients, images at the same index of two tests are treated as the same image.

    Args:
        model: A module or another callable from images to logits (B, K).
        tests: Datasets by name. Three names have a meaning: "same" (the association of the training images), "none" (no
            association) and "reversed". Other names are free, e.g. "absent" for images without markers. The same
            patient name in two tests means the same patient.
        label: As for `predict`.
        prepare: As for `predict`.
        batch_size: As for `predict`.
        n_resamples: Number of resamples.
        seed: Random seed of the resamples.

    Raises:
        TypeError: `tests` is not a mapping, or a test is not a `StratifiedImages`.
        ValueError: As for `predict`. There are no tests, a test has only one class, or only some tests have patients.

    Warns:
        UserWarning: All logits are in [0, 1], as if they were probabilities. Then only the AUROCs are valid. Or
            resamples of a test have images of one class only.

    Example:
        >>> import torch
        >>> from causalcxr.bench import ConfoundedDataset
        >>> same = ConfoundedDataset(torch.rand(80, 1, 64, 64), [0, 1] * 40, marker="letter", correlation=0.95)
        >>> tests = {"same": same, "none": same.with_correlation(0.5), "reversed": same.with_correlation(0.05)}
        >>> result = evaluate(lambda images: images.amax(dim=(2, 3)) - 1, tests, n_resamples=100)
        >>> list(result.tests)
        ['same', 'none', 'reversed']
    """
    _check_tests(tests)
    logits = {
        name: predict(model, test, label=label, prepare=prepare, batch_size=batch_size) for name, test in tests.items()
    }
    if all(values.min() >= 0 and values.max() <= 1 for values in logits.values()):
        warnings.warn(
            "the model's logits all lie in [0, 1] like probabilities, but a sigmoid is applied to them for ece, "
            "mean_probability and shift; for probabilities, return probabilities.logit(eps=1e-6)",
            stacklevel=2,
        )
    aurocs = _resample(logits, tests, n_resamples, seed)
    return BenchResult(
        {name: _scores(name, logits[name].sigmoid(), test, aurocs) for name, test in tests.items()},
        _difference(aurocs, "same", "reversed"),
        _difference(aurocs, "none", "reversed"),
    )


def as_dict(result: Any) -> Any:
    """Convert a result to JSON-ready dictionaries, lists and numbers, with `None` for NaN.

    Args:
        result: A [`BenchResult`][causalcxr.bench.BenchResult], or another named tuple of this package.

    Example:
        >>> as_dict(Interval(0.8, 0.7, float("nan")))
        {'value': 0.8, 'low': 0.7, 'high': None}
    """
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, np.ndarray | np.generic):
        result = result.tolist()
    if isinstance(result, dict):
        return {name: as_dict(value) for name, value in result.items()}
    if isinstance(result, list):
        return [as_dict(value) for value in result]
    return None if isinstance(result, float) and math.isnan(result) else result


def _resample(
    logits: Mapping[str, Tensor], tests: Mapping[str, StratifiedImages], n_resamples: int, seed: int
) -> Aurocs:
    """Compute the AUROC of each test, and of each of its strata with both classes.

    Each is one label of a single bootstrap, unknown for images of other tests and strata, so that all share the draws.
    """
    keys: list[tuple[str, int | None]] = []
    columns = []
    for name, test in tests.items():
        target, strata = test.targets[:, 0].double().numpy(), test.strata.numpy()
        for stratum in (None, 0, 1):
            chosen = target if stratum is None else np.where(strata == stratum, target, np.nan)
            if len(np.unique(chosen[~np.isnan(chosen)])) == 2:
                keys.append((name, stratum))
                column = [chosen if other == name else np.full(len(tests[other]), np.nan) for other in tests]
                columns.append(np.concatenate(column))
    scores = np.concatenate([logits[name].double().numpy() for name in tests])
    result = bootstrap_auroc(
        np.repeat(scores[:, None], len(keys), axis=1),
        np.stack(columns, axis=1),
        np.concatenate([np.arange(len(test)) if test.patient is None else test.patient for test in tests.values()]),
        n_resamples=n_resamples,
        seed=seed,
    )
    for (name, stratum), count in zip(keys, result.undefined.tolist(), strict=True):
        if stratum is None and count:
            warnings.warn(
                f"{count} of {n_resamples} resamples of test {name!r} have one class: intervals may be too narrow",
                stacklevel=3,
            )
    values = np.concatenate([result.per_label.value[None], result.resamples])
    return dict(zip(keys, values.T, strict=True))


def _interval(values: Any) -> Interval:
    return Interval.from_resamples(values[0], values[1:])


def _difference(aurocs: Aurocs, name: str, other: str) -> Interval | None:
    present = (name, None) in aurocs and (other, None) in aurocs
    return _interval(aurocs[name, None] - aurocs[other, None]) if present else None


def _scores(name: str, probabilities: Tensor, test: StratifiedImages, aurocs: Aurocs) -> Scores:
    targets, strata = test.targets[:, 0], test.strata
    groups = [aurocs[key] for key in ((name, 0), (name, 1)) if key in aurocs]
    worst = np.minimum.reduce(groups) if groups else np.full_like(aurocs[name, None], math.nan)
    shifts = [
        probabilities[(targets == y) & (strata == 1)].mean() - probabilities[(targets == y) & (strata == 0)].mean()
        for y in (0, 1)
    ]
    return Scores(
        _interval(aurocs[name, None]),
        _interval(worst),
        int(np.isnan(worst[1:]).sum()),
        float(expected_calibration_error(probabilities, targets)[0]),
        float(probabilities.mean()),
        float(sum(shifts) / 2),
    )


def _check_tests(tests: Mapping[str, Any]) -> None:
    if not isinstance(tests, Mapping):
        raise TypeError(f"tests must be a mapping such as {{'same': dataset}}, got {type(tests).__name__}")
    for name, test in tests.items():
        if not isinstance(test, StratifiedImages):
            raise TypeError(f"test {name!r} must be a causalcxr.bench.StratifiedImages, got {type(test).__name__}")
        if len(test.targets.unique()) < 2:
            raise ValueError(f"test {name!r} must have positives and negatives")
    without = [name for name, test in tests.items() if test.patient is None]
    if not tests or 0 < len(without) < len(tests):
        raise ValueError(f"tests must not be empty, and all or none must have patients, but these have none: {without}")
