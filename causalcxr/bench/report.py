"""How much a classifier relies on the confounder: its figures on tests that differ in nothing but the confounder."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from causalcxr.bench._draws import CHOICE_STREAM
from causalcxr.bench._inputs import check_binary
from causalcxr.bench._resampling import Aurocs, Interval, groups_of, interval, resample_tests
from causalcxr.bench.probe import import_sklearn, linear_probe
from causalcxr.bench.scoring import Predictions, Prepare, predict
from causalcxr.data.synthetic import stream
from causalcxr.metrics import expected_calibration_error

__all__ = ["BenchResult", "Scores", "as_dict", "evaluate", "measure"]


class Scores(NamedTuple):
    """Figures on one test.

    Attributes:
        auroc: AUROC of the finding.
        worst_group: The lower of the AUROCs among images with and among images without the confounder
            (`causalcxr.metrics.worst_group_auroc`).
        ece: Expected calibration error.
        mean_probability: Mean of the predicted probabilities.
        shift: By how much the mean probability is higher with the confounder than without, averaged over positives and
            negatives; NaN where one of the four combinations has no image. Where a painted marker has no association
            with the label, this is its effect on the prediction.
        attention_share: Mean share of the causal map on the marker, over the images that have one, or `None`.
        area_share: Mean share of the image that the marker covers, to compare with, or `None`.
    """

    auroc: Interval
    worst_group: Interval
    ece: float
    mean_probability: float
    shift: float
    attention_share: float | None
    area_share: float | None


class BenchResult(NamedTuple):
    """Figures on all tests, from [`evaluate`][causalcxr.bench.evaluate].

    Attributes:
        tests: Name of the test to its [`Scores`][causalcxr.bench.Scores].
        drop: AUROC on "same" less AUROC on "reversed"; `None` without these two tests.
        gap: AUROC on "none" less AUROC on "reversed": how far the reversal takes it below the level at which the
            confounder says nothing; `None` without these two tests.
        probe_causal: AUROC with which a linear probe reads the confounder from the causal features on "none"; `None`
            without this test or without `forward_causal`.
        probe_confounder: The same from the confounder features.
    """

    tests: dict[str, Scores]
    drop: Interval | None
    gap: Interval | None
    probe_causal: float | None
    probe_confounder: float | None


def evaluate(
    model: Callable[[Tensor], Tensor],
    tests: Mapping[str, Any],
    *,
    label: int | None = None,
    prepare: Prepare | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> BenchResult:
    """Show all tests to a classifier and measure it: [`predict`][causalcxr.bench.predict], then `measure`.

    Nothing is chosen here, and nothing may be chosen by what this returns for "reversed": epochs, thresholds and
    hyper-parameters are chosen on validation images with the association of the training images.

    Args:
        model: A module or another callable from images to logits (B, K).
        tests: Name to data set, see [`measure`][causalcxr.bench.measure]. Three names have a meaning: "same" (the
            association of the training images), "none" (no association) and "reversed". Others, such as "absent" for
            images without markers, have none.
        label: As for `predict`.
        prepare: As for `predict`.
        batch_size: As for `predict`.
        device: As for `predict`.
        n_resamples: As for `measure`.
        seed: As for `measure`.

    Returns:
        A [`BenchResult`][causalcxr.bench.BenchResult].

    Raises:
        ImportError: A probe is due, and scikit-learn is not installed.
        TypeError: A test has no `targets` or `strata`; as for `predict`.
        ValueError: As for `predict` and `measure`. Tests are checked before any image is scored.

    Example:
        >>> from causalcxr.bench import ConfoundedDataset
        >>> same = ConfoundedDataset(torch.rand(80, 1, 64, 64), [0, 1] * 40, marker="letter", correlation=0.95)
        >>> tests = {"same": same, "none": same.with_correlation(0.5), "reversed": same.with_correlation(0.05)}
        >>> result = evaluate(lambda images: images.amax(dim=(2, 3)), tests, n_resamples=100)
        >>> list(result.tests), result.probe_causal
        (['same', 'none', 'reversed'], None)
    """
    _check_tests(tests)
    if callable(getattr(model, "forward_causal", None)) and "none" in tests:
        import_sklearn()
        _halves(tests["none"], seed)
    options: dict[str, Any] = {"label": label, "prepare": prepare, "batch_size": batch_size, "device": device}
    predictions = {name: predict(model, dataset, **options) for name, dataset in tests.items()}
    return measure(predictions, tests, n_resamples=n_resamples, seed=seed)


def measure(
    predictions: Mapping[str, Predictions], tests: Mapping[str, Any], *, n_resamples: int = 2000, seed: int = 0
) -> BenchResult:
    """Turn predictions into figures.

    Intervals are 95 % percentile intervals over resamples of patients, where the tests have a `patient`, else of
    images. All tests are resampled together: a patient who is in two tests is drawn as often in both, which narrows the
    intervals of differences. Without patients, images at the same index of two tests are taken for the same.

    The probe is trained on a random half of the patients (or images) of "none" and tested on the other, then the other
    way round; the two AUROCs are averaged.

    Args:
        predictions: Name of the test to what the classifier makes of it.
        tests: Name to data set with `targets` (N, 1) and `strata` (N,), zeros and ones, and `patient` (N,) or none.
            Patients with the same name in two tests are the same.
        n_resamples: Number of resamples.
        seed: Seed of the resamples and of the halves.

    Returns:
        A [`BenchResult`][causalcxr.bench.BenchResult].

    Raises:
        ImportError: A probe is due, and scikit-learn is not installed.
        TypeError: A test has no `targets` or `strata`.
        ValueError: There is no test; predictions and tests differ in names or numbers of images; a test has one class
            only; some tests have patients and others none; half of "none" lacks images with or without the confounder.
    """
    _check_tests(tests)
    if predictions.keys() != tests.keys():
        raise ValueError(f"predictions and tests must have the same names, got {[*predictions]} and {[*tests]}")
    for name, test in tests.items():
        if len(predictions[name].logits) != len(test.strata):
            got = len(predictions[name].logits)
            raise ValueError(f"predictions of {name!r} must be one for each of {len(test.strata)} images, got {got}")
    logits = {name: each.logits for name, each in predictions.items()}
    aurocs = resample_tests(logits, tests, n_resamples, seed)
    probes: list[float | None] = [None, None]
    if "none" in tests:
        features = predictions["none"].causal, predictions["none"].confounder
        probes = [None if each is None else _cross_probe(each, tests["none"], seed) for each in features]
    return BenchResult(
        {name: _scores(name, predictions[name], test, aurocs) for name, test in tests.items()},
        _difference(aurocs, "same", "reversed"),
        _difference(aurocs, "none", "reversed"),
        *probes,
    )


def as_dict(result: Any) -> Any:
    """Turn a result into what `json.dump` takes: dictionaries and numbers, with `None` for NaN.

    Args:
        result: A [`BenchResult`][causalcxr.bench.BenchResult], or another named tuple of this package.

    Example:
        >>> as_dict(Interval(0.8, 0.7, float("nan")))
        {'value': 0.8, 'low': 0.7, 'high': None}
    """
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, Mapping):
        return {name: as_dict(value) for name, value in result.items()}
    if isinstance(result, tuple):
        return [as_dict(value) for value in result]
    return None if isinstance(result, float) and math.isnan(result) else result


def _difference(aurocs: Aurocs, name: str, other: str) -> Interval | None:
    present = (name, None) in aurocs and (other, None) in aurocs
    return interval(aurocs[name, None] - aurocs[other, None]) if present else None


def _scores(name: str, predictions: Predictions, test: Any, aurocs: Aurocs) -> Scores:
    probabilities, targets, strata = predictions.logits.sigmoid(), test.targets.reshape(-1), test.strata.reshape(-1)
    groups = [aurocs[key] for key in ((name, 0), (name, 1)) if key in aurocs]
    worst = np.fmin.reduce(groups) if groups else np.full(1, math.nan)
    shifts = [
        probabilities[(targets == y) & (strata == 1)].mean() - probabilities[(targets == y) & (strata == 0)].mean()
        for y in (0, 1)
    ]
    shares = [None if each is None else float(each.nanmean()) for each in predictions[3:]]
    return Scores(
        interval(aurocs[name, None]),
        interval(worst),
        float(expected_calibration_error(probabilities, targets)[0]),
        float(probabilities.mean()),
        float(sum(shifts) / 2),
        *shares,
    )


def _cross_probe(features: Tensor, test: Any, seed: int) -> float:
    """AUROC of the probe, trained on either half and tested on the other."""
    half, strata = _halves(test, seed), test.strata.reshape(-1)
    readings = [linear_probe(features[a], strata[a], features[~a], strata[~a]) for a in (half, ~half)]
    return sum(readings) / 2


def _halves(test: Any, seed: int) -> Tensor:
    """A random half of the patients, or of the images: whether each image (N,) is in it."""
    groups, members = np.unique(groups_of(test), return_inverse=True)
    order = stream(seed, CHOICE_STREAM, 1).permutation(len(groups))
    half = torch.from_numpy(order[members] < len(groups) / 2)
    for part in (half, ~half):
        if len(test.strata.reshape(-1)[part].unique()) < 2:
            raise ValueError(
                "the test 'none' is too small for a probe: a random half of its patients or images has the confounder "
                "on all or on none"
            )
    return half


def _check_tests(tests: Mapping[str, Any]) -> None:
    if not tests:
        raise ValueError("tests must not be empty")
    for name, test in tests.items():
        if not (hasattr(test, "targets") and hasattr(test, "strata")):
            raise TypeError(
                f"test {name!r} must have targets and strata, but {type(test).__name__} has not; wrap it in "
                "causalcxr.bench.StratifiedImages"
            )
        strata = check_binary(f"strata of {name!r}", test.strata)
        if len(check_binary(f"targets of {name!r}", test.targets, len(strata)).unique()) < 2:
            raise ValueError(f"test {name!r} must have positives and negatives")
    known = {name: getattr(test, "patient", None) is not None for name, test in tests.items()}
    if len(set(known.values())) > 1:
        without = [name for name, has_patient in known.items() if not has_patient]
        raise ValueError(f"all tests or none must have patients, but these have none: {', '.join(without)}")
