"""Paired differences against two bootstraps of one model each, and the worst group against a literal loop."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causalcxr.metrics import auroc, bootstrap_auroc, paired_difference, worst_group_auroc

EXACT = {"rtol": 0, "atol": 1e-12}


def _problem(n: int = 200, k: int = 3, runs: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (runs, N, K), targets and five images a group; a few targets are unknown."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < np.linspace(0.2, 0.7, k)).astype(float)
    scores = (rng.normal(size=(runs, n, k)) + targets).round(1)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    return scores, targets, np.arange(n) // 5


@pytest.mark.parametrize("grouped", [False, True], ids=["images", "patients"])
def test_difference_is_that_of_two_bootstraps_with_the_same_seed(grouped):
    (first, second, *_), targets, patients = _problem()
    options = {"groups": patients if grouped else None, "n_resamples": 50, "seed": 7}
    result = paired_difference(first, second, targets, confidence=0.8, **options)
    one, two = bootstrap_auroc(first, targets, **options), bootstrap_auroc(second, targets, **options)
    resamples = one.resamples - two.resamples
    np.testing.assert_array_equal(result.difference, one.auroc - two.auroc)
    np.testing.assert_array_equal(result.resamples, resamples)
    np.testing.assert_allclose([result.low, result.high], np.quantile(resamples, [0.1, 0.9], axis=0), **EXACT)
    assert result.mean == pytest.approx(one.mean - two.mean, abs=1e-12)
    ends = np.quantile(resamples.mean(axis=1), [0.1, 0.9])
    np.testing.assert_allclose([result.mean_low, result.mean_high], ends, **EXACT)


def test_fields_are_those_of_one_bootstrap():
    (first, second, *_), targets, patients = _problem()
    one = bootstrap_auroc(first, targets, patients, n_resamples=3)
    result = paired_difference(first, second, targets, patients, n_resamples=3)
    assert result._fields == ("difference", *one._fields[1:])
    assert [np.shape(field) for field in result] == [np.shape(field) for field in one]
    assert [type(field) for field in result] == [type(field) for field in one]


def test_model_does_not_differ_from_itself():
    runs, targets, patients = _problem()
    for scores in (runs[0], runs):
        result = paired_difference(scores, scores, targets, patients, n_resamples=20)
        for field in result:
            np.testing.assert_array_equal(field, np.zeros_like(field))


def test_exchanging_the_sides_exchanges_the_signs():
    (first, second, *_), targets, patients = _problem()
    there = paired_difference(first, second, targets, patients, n_resamples=40)
    back = paired_difference(second, first, targets, patients, n_resamples=40)
    np.testing.assert_array_equal(there.resamples, -back.resamples)
    np.testing.assert_allclose(there.low, -back.high, **EXACT)
    assert there.mean_high == pytest.approx(-back.mean_low, abs=1e-12)


def test_perfect_against_useless_and_against_reversed():
    targets = np.arange(40)[:, None] % 2
    constant, perfect = np.zeros((40, 1)), targets.astype(float)
    for baseline, expected in ((constant, 0.5), (-perfect, 1.0)):
        result = paired_difference(perfect, baseline, targets, n_resamples=20)
        np.testing.assert_array_equal(np.concatenate([result.difference, result.low, result.high]), [expected] * 3)


def test_pairing_narrows_the_interval_of_models_that_agree():
    (scores, *_), targets, patients = _problem(n=400)
    near = scores + np.random.default_rng(1).normal(scale=0.1, size=scores.shape)
    one = bootstrap_auroc(scores, targets, patients, n_resamples=200)
    both = paired_difference(near, scores, targets, patients, n_resamples=200)
    assert (both.high - both.low < (one.high - one.low) / 3).all()


def test_aurocs_are_averaged_over_the_runs_of_each_side():
    runs, targets, patients = _problem(runs=5)
    result = paired_difference(runs[:3], runs[3:], targets, patients, n_resamples=30)
    single = [bootstrap_auroc(scores, targets, patients, n_resamples=30) for scores in runs]
    expected = np.mean([run.resamples for run in single[:3]], 0) - np.mean([run.resamples for run in single[3:]], 0)
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    expected = np.mean([run.auroc for run in single[:3]], 0) - np.mean([run.auroc for run in single[3:]], 0)
    np.testing.assert_allclose(result.difference, expected, **EXACT)
    ensemble = paired_difference(runs[:3].mean(0), runs[3:].mean(0), targets, patients, n_resamples=30)
    assert (np.abs(ensemble.difference - result.difference) > 1e-3).any()  # scores are not averaged


@pytest.mark.parametrize("count", [1, 3])
def test_equal_runs_are_as_good_as_one(count):
    (first, second, *_), targets, patients = _problem()
    one = paired_difference(first, second, targets, patients, n_resamples=20)
    several = paired_difference([first] * count, np.stack([second] * 2), targets, patients, n_resamples=20)
    for field, expected in zip(several, one, strict=True):
        np.testing.assert_allclose(field, expected, **EXACT)


def test_runs_may_be_arrays_tensors_or_lists_of_them():
    runs, targets, patients = _problem()
    exact = torch.tensor(runs, dtype=torch.float64, requires_grad=True)
    expected = paired_difference(runs, runs[0], targets, patients, n_resamples=5)
    for given in (exact, list(exact), tuple(runs), runs.tolist()):
        result = paired_difference(given, runs[0].tolist(), torch.tensor(targets), patients, n_resamples=5)
        np.testing.assert_array_equal(result.resamples, expected.resamples)
    rounded = exact.bfloat16()
    result = paired_difference(list(rounded), rounded, targets, patients, n_resamples=5)
    np.testing.assert_array_equal(result.resamples, np.zeros((5, 3)))


def test_one_label_may_be_given_as_a_vector():
    runs, targets, patients = _problem()
    expected = paired_difference(runs[:, :, :1], runs[0, :, :1], targets[:, :1], patients, n_resamples=5)
    result = paired_difference(runs[:, :, 0], runs[0, :, 0], targets[:, 0], patients, n_resamples=5)
    np.testing.assert_array_equal(result.resamples, expected.resamples)
    assert result.difference.shape == (1,)


def test_label_with_one_class_is_nan_and_named_once():
    runs, targets, patients = _problem()
    targets[:, 1] = 0
    with pytest.warns(UserWarning, match=r"AUROC is undefined \(NaN\) for labels \[1\]") as caught:
        result = paired_difference(runs[:2], runs[2:], targets, patients, n_resamples=10)
    assert [warning.filename for warning in caught] == [__file__]
    for part in (result.difference, result.low, result.high):
        np.testing.assert_array_equal(np.isnan(part), [False, True, False])
    assert result.mean == pytest.approx((result.difference[0] + result.difference[2]) / 2, abs=1e-12)


@pytest.mark.parametrize("side", ["scores", "baseline"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 3)), r"the shape of the targets, \(4, 2\), or one leading axis .* got \(4, 3\)"),
        (np.zeros((5, 4)), r"got \(5, 4\)"),
        (np.zeros((2, 2, 4, 2)), r"got \(2, 2, 4, 2\)"),
        (np.zeros((0, 4, 2)), r"got \(0, 4, 2\)"),
        (0.5, r"got \(\)"),
        ([], r"got \(0,\)"),
        ([np.zeros((4, 2)), np.zeros((3, 2))], r"of several runs must all have the same shape.*\(3, 2\), \(4, 2\)"),
        ([np.zeros((4, 2)), np.full((4, 2), np.nan)], "finite, got NaN or infinity in 8 of 8"),
    ],
)
def test_bad_runs_are_named_by_their_side(side, given, message):
    sides = {"scores": np.zeros((4, 2)), "baseline": np.zeros((4, 2)), side: given}
    with pytest.raises(ValueError, match=f"^{side} .*{message}"):
        paired_difference(**sides, targets=[[0, 1], [1, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": np.zeros((4, 2, 2)), "scores": np.zeros((4, 2, 2)), "baseline": np.zeros((4, 2, 2))}, r"\(N, K\)"),
        ({"targets": [0, 1, 2, 1]}, r"0, 1 or NaN \(unknown\), got 2"),
        ({"groups": [1, 2]}, r"one group an image, shape \(4,\), got \(2,\)"),
        ({"groups": ["a"] * 4}, "at least two groups"),
        ({"n_resamples": 0}, "n_resamples must be at least 1, got 0"),
        ({"confidence": 1}, "confidence must lie between 0 and 1, such as 0.95, got 1"),
    ],
)
def test_bad_targets_and_options(options, message):
    good = {"scores": [0.1, 0.2, 0.3, 0.4], "baseline": [0.1, 0.2, 0.3, 0.4], "targets": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=message):
        paired_difference(**{**good, **options})


def test_worst_group_equals_a_literal_loop():
    (scores, *_), targets, _ = _problem(n=300)
    groups = np.array(["AP", "PA", "LL"])[np.random.default_rng(2).choice(3, size=300, p=[0.5, 0.45, 0.05])]
    targets[groups == "LL", 0] = 1  # the smallest group has one class of the first label
    expected = []
    for k in range(3):
        values = []
        for name in ("AP", "PA", "LL"):
            rows = (groups == name) & ~np.isnan(targets[:, k])
            if len(set(targets[rows, k])) == 2:
                values.append(roc_auc_score(targets[rows, k], scores[rows, k]))
        expected.append(min(values))
    np.testing.assert_allclose(worst_group_auroc(scores, targets, groups), expected, **EXACT)
    given = torch.tensor(scores), torch.tensor(targets), torch.tensor(np.unique(groups, return_inverse=True)[1])
    np.testing.assert_allclose(worst_group_auroc(*given), expected, **EXACT)


def test_one_group_is_the_plain_auroc():
    (scores, *_), targets, _ = _problem()
    np.testing.assert_array_equal(worst_group_auroc(scores, targets, ["all"] * 200), auroc(scores, targets))


def test_a_label_that_follows_the_group_alone_fails_within_it():
    groups = np.repeat([0, 1], 50)
    targets = np.concatenate([np.arange(50) % 10 == 0, np.arange(50) % 10 != 0]).astype(float)
    assert auroc(groups, targets)[0] == 0.9
    assert worst_group_auroc(groups, targets, groups)[0] == 0.5


def test_label_defined_in_no_group_is_nan_and_named():
    scores, targets = np.arange(8.0).reshape(4, 2), [[0, 0], [1, 0], [0, 1], [1, 1]]
    with pytest.warns(UserWarning, match=r"labels \[1\]: no group has both classes") as caught:
        result = worst_group_auroc(scores, targets, ["a", "a", "b", "b"])
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(result, [1.0, np.nan])


@pytest.mark.parametrize(
    ("scores", "targets", "groups", "message"),
    [
        ([0.1, 0.2], [0, 1, 1], [1, 1], r"same shape, got \(2,\) and \(3,\)"),
        ([0.1, np.inf], [0, 1], [1, 1], "finite, got NaN or infinity in 1 of 2"),
        ([0.1, 0.2], [0, 3], [1, 1], r"0, 1 or NaN \(unknown\), got 3"),
        ([0.1, 0.2], [0, 1], [1, 1, 1], r"one group an image, shape \(2,\), got \(3,\)"),
        ([0.1, 0.2], [0, 1], None, r"one group an image, shape \(2,\), got \(\)"),
        ([0.1, 0.2], [0, 1], ["a", None], "missing values, got 1 of 2"),
    ],
)
def test_bad_inputs_of_the_worst_group(scores, targets, groups, message):
    with pytest.raises(ValueError, match=message):
        worst_group_auroc(scores, targets, groups)
