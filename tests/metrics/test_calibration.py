"""Calibration error against closed forms and a literal loop over bins."""

import numpy as np
import pytest

from causalcxr.metrics import expected_calibration_error, reliability_curve

EXACT = {"rtol": 0, "atol": 1e-12}


def _draw():
    """Probabilities (500, 3), some on bin edges, and targets, a tenth of them unknown."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(1, 3, size=(500, 3))
    targets = (rng.random((500, 3)) < probabilities ** np.linspace(0.5, 2, 3)).astype(float)
    targets[rng.random((500, 3)) < 0.1] = np.nan
    probabilities[:150] = probabilities[:150].round(1)
    return probabilities, targets


def _literal(probabilities, targets, n_bins):
    """Loop over the bins of one label: the error, and (mean prediction, frequency, count) of each bin."""
    known = ~np.isnan(targets)
    p, y = probabilities[known], targets[known]
    error, rows = 0.0, []
    for m in range(n_bins):
        inside = (p <= (m + 1) / n_bins) & ((p > m / n_bins) if m else (p >= 0))
        if inside.any():
            rows.append([p[inside].mean(), y[inside].mean(), inside.sum()])
            error += inside.mean() * abs(y[inside].mean() - p[inside].mean())
        else:
            rows.append([np.nan, np.nan, 0])
    return error, rows


@pytest.mark.parametrize("n_bins", [1, 7, 15, 100])
def test_equals_a_literal_loop_over_the_bins(n_bins):
    drawn = _draw()
    curve, error = reliability_curve(*drawn, n_bins=n_bins), expected_calibration_error(*drawn, n_bins=n_bins)
    for k, (probabilities, targets) in enumerate(zip(*(columns.T for columns in drawn), strict=True)):
        expected, rows = _literal(probabilities, targets, n_bins)
        assert error[k] == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(np.transpose([field[k] for field in curve]), rows, **EXACT)


def test_bins_are_closed_on_the_right_and_the_first_on_both_sides():
    curve = reliability_curve([0.0, 0.25, 0.25000001, 0.5, 0.75, 0.76, 1.0], [0] * 7, n_bins=4)
    np.testing.assert_array_equal(curve.size, [[2, 2, 1, 2]])
    edges = np.arange(1, 16) / 15
    np.testing.assert_array_equal(reliability_curve(edges, np.zeros(15)).size, np.ones((1, 15)))


@pytest.mark.parametrize(
    ("probabilities", "targets", "expected"),
    [
        ([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], 0.0),  # confident and right
        ([0.0, 0.0, 1.0, 1.0], [1, 1, 0, 0], 1.0),  # confident and wrong
        ([0.25] * 4, [0, 0, 0, 1], 0.0),  # predicts the frequency
        ([0.75] * 4, [0, 0, 0, 1], 0.5),
        ([0.0, 0.5, 0.5, 1.0], [0, 0, 1, 0], 0.25),  # one of four images, off by one
    ],
)
def test_closed_forms(probabilities, targets, expected):
    np.testing.assert_allclose(expected_calibration_error(probabilities, targets), [expected], **EXACT)


def test_label_without_known_targets_is_nan_and_named():
    probabilities, targets = _draw()
    targets[:, 2] = np.nan
    with pytest.warns(UserWarning, match=r"calibration error is undefined \(NaN\) for labels \[2\]") as caught:
        result = expected_calibration_error(probabilities, targets)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(np.isnan(result), [False, False, True])


@pytest.mark.parametrize("function", [expected_calibration_error, reliability_curve])
@pytest.mark.parametrize(
    ("probabilities", "n_bins", "given"),
    [([-2.5, 4.0], 15, "-2.5 to 4"), ([0.5, np.nan], 15, "1 of 2"), ([0.5, 0.5], 0, "0"), ([0.5, 0.5], 2.5, "2.5")],
)
def test_bad_inputs_are_refused(function, probabilities, n_bins, given):
    with pytest.raises(ValueError, match=given):
        function(probabilities, [0, 1], n_bins=n_bins)
