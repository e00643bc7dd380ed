"""AUROC and its bootstrap against scikit-learn, on scores with and without ties."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causalcxr.metrics import auroc, bootstrap_auroc

EXACT = {"rtol": 0, "atol": 1e-12}


def _problem(n: int = 400, k: int = 4, decimals: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of their targets; few decimals make ties, later labels are commoner."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < np.linspace(0.08, 0.85, k)).astype(float)
    scores = rng.normal(size=(n, k)) + targets
    return (scores if decimals is None else scores.round(decimals)), targets


def _sklearn(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """scikit-learn label by label, unknown targets dropped, NaN where a label has one class."""
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = ~np.isnan(targets[:, k])
        if len(set(targets[known, k])) == 2:
            result[k] = roc_auc_score(targets[known, k], scores[known, k])
    return result


def _literal_bootstrap(
    scores: np.ndarray, targets: np.ndarray, groups: Sequence[object], n_resamples: int, seed: int
) -> np.ndarray:
    """Draw groups, copy the rows of every drawn group, ask scikit-learn."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
    resamples = []
    for _ in range(n_resamples):
        drawn = np.concatenate([rows[g] for g in rng.integers(len(rows), size=len(rows))])
        resamples.append(_sklearn(scores[drawn], targets[drawn]))
    return np.array(resamples)


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["continuous", "ties", "heavy ties"])
def test_auroc_equals_sklearn(decimals):
    scores, targets = _problem(decimals=decimals)
    np.testing.assert_allclose(auroc(scores, targets), _sklearn(scores, targets), **EXACT)


def test_auroc_closed_forms():
    targets = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = [[4, 1, 7, 2], [3, 2, 7, 4], [2, 3, 7, 3], [1, 4, 7, 1]]  # pairs won: all, none, all tied, 3 of 4
    np.testing.assert_array_equal(auroc(scores, targets), [1.0, 0.0, 0.5, 0.75])


def test_auroc_keeps_its_value_under_monotone_maps_and_mirrors_under_negation():
    scores, targets = _problem(decimals=1)
    np.testing.assert_array_equal(auroc(np.exp(scores), targets), auroc(scores, targets))
    np.testing.assert_allclose(auroc(-scores, targets), 1 - auroc(scores, targets), **EXACT)


def test_auroc_masks_unknown_targets_label_by_label():
    scores, targets = _problem(decimals=1)
    targets[np.random.default_rng(1).random(targets.shape) < 0.3] = np.nan
    result = auroc(scores, targets)
    np.testing.assert_allclose(result, _sklearn(scores, targets), **EXACT)
    known = ~np.isnan(targets[:, 0])
    assert result[0] == auroc(scores[known, 0], targets[known, 0])[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_auroc_takes_tensors_of_any_floating_type(dtype):
    scores, targets = _problem()
    given = torch.tensor(scores, dtype=dtype, requires_grad=True)
    result = auroc(given, torch.tensor(targets, dtype=torch.bool))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, _sklearn(given.detach().double().numpy(), targets), **EXACT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auroc_takes_tensors_on_another_device():
    scores, targets = _problem()
    result = auroc(torch.tensor(scores, device="cuda"), torch.tensor(targets, device="cuda"))
    np.testing.assert_array_equal(result, auroc(scores, targets))


def test_one_label_may_be_given_as_a_vector():
    scores, targets = _problem(k=1)
    assert auroc(scores[:, 0], targets[:, 0]).shape == (1,)
    np.testing.assert_array_equal(auroc(scores[:, 0], targets[:, 0]), auroc(scores, targets))


def test_label_with_one_class_is_nan_and_named():
    scores, targets = _problem()
    targets[:, 1], targets[:, 3] = 0, np.nan
    with pytest.warns(UserWarning, match=r"undefined \(NaN\) for labels \[1, 3\]") as caught:
        result = auroc(scores, targets)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(np.isnan(result), [False, True, False, True])
    with pytest.warns(UserWarning, match=r"labels \[1, 3\]") as caught:
        bootstrap = bootstrap_auroc(scores, targets, n_resamples=20)
    assert caught[0].filename == __file__
    for part in (bootstrap.auroc, bootstrap.low, bootstrap.high):
        np.testing.assert_array_equal(np.isnan(part), [False, True, False, True])
    assert bootstrap.mean == pytest.approx((result[0] + result[2]) / 2, abs=1e-12)
    np.testing.assert_allclose(np.quantile(bootstrap.resamples[:, [0, 2]].mean(1), 0.975), bootstrap.mean_high, **EXACT)


def test_no_label_with_two_classes():
    with pytest.warns(UserWarning, match=r"labels \[0, 1\]"):
        result = bootstrap_auroc(np.ones((5, 2)), np.zeros((5, 2)), n_resamples=3)
    assert np.isnan([result.mean, result.mean_low, result.mean_high]).all()
    assert np.isnan(result.resamples).all()


@pytest.mark.parametrize("decimals", [None, 0], ids=["continuous", "heavy ties"])
@pytest.mark.parametrize("grouped", [False, True], ids=["images", "patients"])
def test_resamples_equal_copied_rows_in_sklearn(decimals, grouped):
    scores, targets = _problem(n=120, decimals=decimals)
    targets[np.random.default_rng(1).random(targets.shape) < 0.1] = np.nan
    # Uneven groups; zero-padded names sort as text in the order of their numbers.
    groups = [f"{g:03d}" for g in np.sqrt(np.arange(120) * 13).astype(int)] if grouped else list(range(120))
    expected = _literal_bootstrap(scores, targets, groups, n_resamples=50, seed=3)
    result = bootstrap_auroc(scores, targets, groups if grouped else None, n_resamples=50, seed=3)
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    np.testing.assert_allclose(result.auroc, _sklearn(scores, targets), **EXACT)
    np.testing.assert_allclose(result.low, np.quantile(expected, 0.025, axis=0), **EXACT)
    np.testing.assert_allclose(result.high, np.quantile(expected, 0.975, axis=0), **EXACT)
    np.testing.assert_allclose(result.mean_low, np.quantile(expected.mean(1), 0.025), **EXACT)
    assert result.mean == pytest.approx(result.auroc.mean(), abs=1e-12)


def test_resamples_equal_sample_weights_in_sklearn():
    scores, targets = _problem(n=200, decimals=1)
    groups = np.arange(200) // 7
    result = bootstrap_auroc(scores, targets, groups, n_resamples=20, seed=5)
    rng = np.random.default_rng(5)
    for resample in result.resamples:
        weights = np.bincount(rng.integers(29, size=29), minlength=29)[groups]
        for k in range(targets.shape[1]):
            expected = roc_auc_score(targets[:, k], scores[:, k], sample_weight=weights)
            assert resample[k] == pytest.approx(expected, abs=1e-12)


def test_resamples_without_a_class_are_left_out_of_the_intervals():
    scores, targets = _problem(n=60, k=2, decimals=1)
    targets[:, 0] = np.arange(60) < 2  # two positives: absent from every eighth resample or so
    expected = _literal_bootstrap(scores, targets, range(60), n_resamples=60, seed=0)
    result = bootstrap_auroc(scores, targets, n_resamples=60, confidence=0.8)
    missing = np.isnan(expected[:, 0])
    assert 0 < missing.sum() < 30
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    np.testing.assert_allclose(result.low[0], np.quantile(expected[~missing, 0], 0.1), **EXACT)
    means = np.where(missing, expected[:, 1], expected.mean(1))
    np.testing.assert_allclose([result.mean_low, result.mean_high], np.quantile(means, [0.1, 0.9]), **EXACT)


def test_groups_may_be_numbers_strings_or_a_tensor():
    scores, targets = _problem(n=90)
    numbers = np.arange(90) // 4
    given = [numbers, torch.tensor(numbers), [f"patient {g:02d}" for g in numbers], numbers * 1.5, list(numbers)]
    results = [bootstrap_auroc(scores, targets, groups, n_resamples=10).resamples for groups in given]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    alone = bootstrap_auroc(scores, targets, np.arange(90), n_resamples=10).resamples
    np.testing.assert_array_equal(alone, bootstrap_auroc(scores, targets, n_resamples=10).resamples)


def test_order_of_the_images_does_not_matter_when_groups_are_given():
    scores, targets = _problem(n=90, decimals=1)
    groups, order = np.arange(90) // 4, np.random.default_rng(0).permutation(90)
    shuffled = bootstrap_auroc(scores[order], targets[order], groups[order], n_resamples=10)
    np.testing.assert_array_equal(
        shuffled.resamples, bootstrap_auroc(scores, targets, groups, n_resamples=10).resamples
    )


def test_patients_with_equal_images_widen_the_interval_by_the_square_root_of_their_number():
    scores, targets = _problem(n=300, k=1)
    copies = np.repeat(np.arange(300), 4)
    images = bootstrap_auroc(scores[copies], targets[copies], n_resamples=1000)
    patients = bootstrap_auroc(scores[copies], targets[copies], copies, n_resamples=1000)
    once = bootstrap_auroc(scores, targets, n_resamples=1000)
    np.testing.assert_array_equal(patients.resamples, once.resamples)
    assert patients.resamples.std() / images.resamples.std() == pytest.approx(2, rel=0.1)


def test_same_seed_same_result():
    scores, targets = _problem(decimals=2)
    first, again, other = (bootstrap_auroc(scores, targets, n_resamples=30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(again.resamples, first.resamples)
    assert (other.resamples != first.resamples).any()
    fewer = bootstrap_auroc(scores, targets, n_resamples=20, seed=1)
    np.testing.assert_array_equal(fewer.resamples, first.resamples[:20])


def test_interval_covers_the_true_value_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 0.7602499389065233  # Phi(1 / sqrt 2): unit normals one standard deviation apart
    targets = np.repeat([[0], [1]], 100, axis=0) * np.ones((1, 200))
    scores = rng.normal(size=targets.shape) + targets  # 200 independent experiments, one a column
    result = bootstrap_auroc(scores, targets, n_resamples=300, confidence=0.8)
    covered = ((result.low < truth) & (truth < result.high)).mean()
    assert 0.71 < covered < 0.89  # 0.8 and three standard errors of a share of 200


def test_wider_confidence_holds_the_narrower_interval():
    scores, targets = _problem()
    narrow, wide = (bootstrap_auroc(scores, targets, n_resamples=100, confidence=c) for c in (0.5, 0.99))
    assert (wide.low < narrow.low).all()
    assert (narrow.high < wide.high).all()
    assert wide.mean_low < narrow.mean_low < narrow.mean < narrow.mean_high < wide.mean_high


def test_full_test_list_with_2000_patient_resamples_is_fast():
    rng = np.random.default_rng(0)
    targets = rng.random((25_596, 14)) < np.geomspace(0.0034, 0.24, 14)
    scores, patients = rng.normal(size=targets.shape) + targets, rng.integers(2797, size=len(targets))
    start = time.perf_counter()
    result = bootstrap_auroc(scores, targets, patients)
    assert time.perf_counter() - start < 20
    assert result.resamples.shape == (2000, 14)


@pytest.mark.parametrize("function", [auroc, bootstrap_auroc])
@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), r"same shape, got \(4, 2\) and \(4, 3\)"),
        (np.zeros((4, 1)), np.zeros(4), r"same shape, got \(4, 1\) and \(4,\)"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2, 2)), r"must be \(N, K\).* got \(4, 2, 2\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"not empty; got \(0, 2\)"),
        ([[0.1], [np.nan], [np.inf]], [[0], [1], [1]], "finite, got NaN or infinity in 2 of 3 values"),
        ([[0.1], [0.2]], [[0], [-1]], r"0, 1 or NaN \(unknown\), got -1"),
        ([[0.1], [0.2]], [[0], [0.5]], r"0, 1 or NaN \(unknown\), got 0.5"),
    ],
)
def test_bad_scores_and_targets(function, scores, targets, message):
    with pytest.raises(ValueError, match=message):
        function(scores, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1, 2, 3]}, r"one group an image, shape \(4,\), got \(3,\)"),
        ({"groups": [[1], [2], [3], [4]]}, r"got \(4, 1\)"),
        ({"groups": [1.0, np.nan, 2.0, 2.0]}, "missing values, got 1 of 4"),
        ({"groups": ["a", None, float("nan"), "b"]}, "missing values, got 2 of 4"),
        ({"groups": ["a", "a", float("nan"), "b"]}, "missing values, got 1 of 4"),
        ({"groups": ["a"] * 4}, "at least two groups"),
        ({"n_resamples": 0}, "n_resamples must be at least 1, got 0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, such as 0.95, got 95"),
    ],
)
def test_bad_bootstrap_options(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_auroc([[0.1], [0.2], [0.3], [0.4]], [[0], [1], [0], [1]], **options)


def test_one_image_cannot_be_resampled():
    with pytest.raises(ValueError, match="at least two groups"):
        bootstrap_auroc([[0.1]], [[1]])
