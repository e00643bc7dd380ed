"""`Calibration`: temperature and thresholds against an exhaustive search, and inputs that cannot be fitted."""

import dataclasses
import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from causalcxr import Calibration
from causalcxr.calibration import _fit_threshold
from reference import calibration as reference
from reference.auroc import Frame


def _scores(num_images=60, num_labels=3, *, sharpness=2.0, unknown=0.2, seed=0):
    """Return logits, scaled by `sharpness`, and the targets drawn from the unscaled ones, some of them unknown."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, (num_images, num_labels))
    targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    targets[rng.random(logits.shape) < unknown] = np.nan
    return sharpness * logits, targets


# --- the temperature


@pytest.mark.parametrize("sharpness", [0.3, 4.0])
def test_temperature_is_that_of_a_grid_search(sharpness):
    logits, targets = _scores(sharpness=sharpness)
    expected = reference.temperature(logits.tolist(), targets.tolist())
    assert Calibration.fit(logits, targets).temperature == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_temperature_has_the_scale_of_the_logits(factor):
    logits, targets = _scores()
    one, other = Calibration.fit(logits + 3, targets), Calibration.fit(factor * (logits + 3), targets)
    assert other.temperature == pytest.approx(factor * one.temperature, rel=1e-12)
    np.testing.assert_allclose(other.thresholds, one.thresholds, rtol=1e-9)


@pytest.mark.parametrize(("logits", "reason"), [([-3.0, -2.0, 1.0], "would be 0"), ([3.0, 3.5, 4.0], "infinite")])
def test_scores_without_a_best_temperature_keep_theirs(logits, reason):
    with pytest.warns(UserWarning, match=f"no temperature can be fitted, using 1: .*{reason}") as caught:
        fitted = Calibration.fit(logits, [0, 0, 1])
    assert (fitted.temperature, caught[0].filename) == (1, __file__)


# --- thresholds


@pytest.mark.parametrize("criterion", ["youden", "f1"])
@pytest.mark.parametrize("digits", [0, 9], ids=["ties", "no ties"])
def test_thresholds_are_the_best_of_all(criterion, digits):
    """There are few images, so that some of the labels have several best cuts, or none that beats finding all."""
    logits, targets = _scores(15, 40)
    logits = logits.round(digits)
    with pytest.warns() if criterion == "f1" else nullcontext():
        fitted = Calibration.fit(logits, targets, criterion=criterion)
    probabilities, found = fitted.probabilities(logits), fitted.positives(logits)
    for k in range(40):
        column, labels = probabilities[:, k].tolist(), targets[:, k].tolist()
        best = max(reference.quality(column, labels, t, criterion) for t in [0.0, *column, 1.0])
        if best == reference.quality(column, labels, 0.0, criterion):
            assert fitted.thresholds[k] == 0.5
            continue
        expected = reference.threshold(column, labels, criterion)
        assert fitted.thresholds[k] == pytest.approx(expected, rel=1e-12)
        assert reference.quality(found[:, k].tolist(), labels, True, criterion) == best


def test_neighbouring_probabilities_are_kept_apart():
    """The midpoint of two adjacent floats rounds to one of them: first the lower, then the higher."""
    low = 0.25
    for _ in range(2):
        high = np.nextafter(low, 1)
        assert _fit_threshold(np.array([low, high]), np.array([0, 1]), "youden") == high
        low = high


@pytest.mark.parametrize(
    ("criterion", "column"),
    [
        pytest.param("f1", [np.nan] * 4, id="all unknown"),
        pytest.param("f1", [0, 0, 0, np.nan], id="all negative"),
        pytest.param("f1", [1, np.nan, 1, 1], id="all positive"),
        pytest.param("youden", [0, 1, 1, 0], id="no better J than that of marking all"),
        pytest.param("f1", [0, 1, 0, 0], id="no better F1"),
    ],
)
def test_labels_without_a_threshold_are_named(criterion, column):
    logits = np.array([[-2.0, 0.2, 0.3], [1.0, -0.2, 0.1], [-1.5, 0.1, 0.2], [2.0, 0.3, 0.6]])
    targets = np.stack([[0, 1, 1, 1], column, [1, 0, 0, 1]], axis=1)
    with pytest.warns(UserWarning, match=r"no threshold can be fitted for labels \[1\], using 0\.5"):
        fitted = Calibration.fit(logits, targets, criterion=criterion)
    assert fitted.thresholds[1] == 0.5
    assert 0.5 not in (fitted.thresholds[0], fitted.thresholds[2])
    assert fitted.temperature != 1


# --- inputs and outputs


def test_inputs_are_tensors_arrays_frames_or_lists():
    logits, targets = _scores(20, 2)
    expected = Calibration.fit(logits, targets)
    probabilities = 1 / (1 + np.exp(-logits / expected.temperature))
    reversed_twice, big_endian = (lambda array: array[::-1].copy()[::-1]), (lambda array: array.astype(">f8"))
    to_tensor = lambda array: torch.from_numpy(array).requires_grad_()  # noqa: E731
    for convert in (np.asarray, np.ndarray.tolist, Frame, to_tensor, reversed_twice, big_endian):
        assert Calibration.fit(convert(logits), convert(targets)) == expected
        found = expected.probabilities(convert(logits)).detach()
        np.testing.assert_allclose(found, probabilities, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_probabilities_are_in_float32_at_least(given, expected):
    logits = torch.tensor([[-2, 0], [3, 70]], dtype=given)
    calibration = Calibration(2.0, (0.5, 0.5))
    probabilities = calibration.probabilities(logits)
    assert probabilities.dtype == expected
    torch.testing.assert_close(probabilities, torch.tensor([[-1, 0], [1.5, 35]], dtype=expected).sigmoid())
    assert calibration.positives(logits).tolist() == [[False, True], [True, True]]  # at the threshold as well


def test_numbers_of_numpy_are_stored_as_those_of_python():
    calibration = Calibration(np.float32(1.5), np.array([0.25, 1], dtype=np.float32))
    assert json.loads(json.dumps(dataclasses.asdict(calibration))) == {"temperature": 1.5, "thresholds": [0.25, 1.0]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        calibration.temperature = 2.0


@pytest.mark.parametrize("temperature", [0, float("nan"), float("inf"), "1.5", [1.0]])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        Calibration(temperature, (0.5,))


@pytest.mark.parametrize("thresholds", [(), 0.5, (0.5, 1.1), (-0.1,), (float("nan"),), (True,)])
def test_thresholds_that_are_none(thresholds):
    with pytest.raises(ValueError, match="thresholds must be numbers from 0 to 1"):
        Calibration(1.0, thresholds)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ([[1.0], [-1.0]], [[np.nan]] * 2, "must have known values"),
        ([[0.0, 1.0, 2.0]], None, r"\(..., K\), K=2, but got \(1, 3\)"),
        ([[0.0, np.nan]], None, "finite"),
        (0.5, None, r"K=2, but got \(\)"),
    ],
)
def test_scores_that_do_not_fit(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        Calibration(1.0, (0.5, 0.5)).positives(logits) if targets is None else Calibration.fit(logits, targets)


def test_logits_like_probabilities_are_fitted_with_a_warning():
    """An untrained classifier may have such logits, which must not stop its training."""
    with pytest.warns(UserWarning, match="scores before the sigmoid"):
        calibration = Calibration.fit([[0.4], [0.2], [0.3], [0.1]], [[1], [0], [1], [0]])
    assert calibration.positives([[0.35], [0.15]]).tolist() == [[True], [False]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Calibration.fit([[0.4], [0.2], [0.3], [1.2]], [[1], [0], [1], [1]])
        Calibration.fit([[0.4], [0.2], [0.3], [-0.1]], [[1], [0], [1], [0]])


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="criterion must be one of 'youden', 'f1'"):
        Calibration.fit([0.5, 1.5], [0, 1], criterion="accuracy")


def test_probabilities_in_a_compiled_graph():
    calibration, logits = Calibration(2.0, (0.5, 0.25)), torch.tensor([[1.0, -1.0], [0.0, 3.0]])
    compiled = torch.compile(calibration.probabilities, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits), calibration.probabilities(logits))
