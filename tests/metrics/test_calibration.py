"""Reliability curve and calibration error against a literal loop over bins."""

import numpy as np
import pytest

from causalcxr.metrics import expected_calibration_error, reliability_curve

EXACT = {"rtol": 0, "atol": 1e-12}


def _draw():
    """Probabilities (500, 3), some on bin edges or 1, and targets, a tenth of them unknown."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(1, 3, size=(500, 3))
    targets = (rng.random((500, 3)) < probabilities ** np.linspace(0.5, 2, 3)).astype(float)
    targets[rng.random((500, 3)) < 0.1] = np.nan
    probabilities[:150] = probabilities[:150].round(1)
    probabilities[150:170] = 1
    return probabilities, targets


def _literal(probabilities, targets, n_bins=15):
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


@pytest.mark.parametrize("options", [{}, {"n_bins": 1}, {"n_bins": 100}], ids=str)
def test_equals_a_literal_loop_over_the_bins(options):
    drawn = _draw()
    curve, error = reliability_curve(*drawn, **options), expected_calibration_error(*drawn, **options)
    for k, (probabilities, targets) in enumerate(zip(*(columns.T for columns in drawn), strict=True)):
        expected, rows = _literal(probabilities, targets, **options)
        assert error[k] == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(np.transpose([field[k] for field in curve]), rows, **EXACT)


def test_label_without_known_targets_is_nan_and_named():
    probabilities, targets = _draw()
    targets[:, 2] = np.nan
    with pytest.warns(UserWarning, match=r"calibration error is undefined \(NaN\) for labels \[2\]") as caught:
        result = expected_calibration_error(probabilities, targets)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(np.isnan(result), [False, False, True])


@pytest.mark.parametrize(
    ("probabilities", "n_bins", "given"),
    [([-2.5, 1], 15, "-2.5 to 1"), ([0, 4], 15, "0 to 4"), ([0.5, 0.5], 0, "0"), ([0.5, 0.5], 2.5, "2.5")],
)
def test_bad_inputs_are_refused(probabilities, n_bins, given):
    with pytest.raises(ValueError, match=given):
        reliability_curve(probabilities, [0, 1], n_bins=n_bins)
