"""The bootstrap against drawing and copying rows and asking scikit-learn, and what it says of rare labels."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causalcxr.metrics import Interval, bootstrap_auroc, paired_difference

EXACT = {"rtol": 0, "atol": 1e-12}


def _problem(n: int = 200, k: int = 3, runs: int = 4, decimals: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (runs, N, K) with ties, targets and five images a patient; a few targets are unknown."""
    rng = np.random.default_rng(0)
    targets = (rng.random((n, k)) < np.linspace(0.2, 0.7, k)).astype(float)
    scores = (rng.normal(size=(runs, n, k)) + targets).round(decimals)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    return scores, targets, np.arange(n) // 5


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


@pytest.mark.parametrize("decimals", [9, 0], ids=["continuous", "heavy ties"])
@pytest.mark.parametrize("grouped", [False, True], ids=["images", "patients"])
def test_resamples_equal_copied_rows_in_sklearn(decimals, grouped):
    (scores,), targets, _ = _problem(n=120, runs=1, decimals=decimals)
    # Uneven groups; zero-padded names sort as text in the order of their numbers.
    groups = [f"{g:03d}" for g in np.sqrt(np.arange(120) * 13).astype(int)] if grouped else list(range(120))
    expected = _literal_bootstrap(scores, targets, groups, n_resamples=50, seed=3)
    result = bootstrap_auroc(scores, targets, groups if grouped else None, n_resamples=50, confidence=0.8, seed=3)
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    np.testing.assert_allclose(result.per_label.value, _sklearn(scores, targets), **EXACT)
    np.testing.assert_allclose(result.per_label[1:], np.quantile(expected, [0.1, 0.9], axis=0), **EXACT)
    np.testing.assert_allclose(result.mean[1:], np.quantile(expected.mean(1), [0.1, 0.9]), **EXACT)
    assert result.mean.value == pytest.approx(result.per_label.value.mean(), abs=1e-12)
    assert result.num_labels == 3


def test_a_rare_label_is_counted_in_images_in_patients_and_in_resamples_that_lack_it():
    rng = np.random.default_rng(0)
    patients = np.arange(120) // 3
    targets = np.stack([np.arange(120) % 2, patients < 2], axis=1).astype(float)  # six images of two patients
    scores = rng.normal(size=(120, 2)).round(1) + targets
    expected = _literal_bootstrap(scores, targets, patients.tolist(), n_resamples=60, seed=0)
    lacking = np.isnan(expected[:, 1])
    assert 0 < lacking.sum() < 30
    result = bootstrap_auroc(scores, targets, patients, n_resamples=60, confidence=0.8)
    assert (result.positives.tolist(), result.positive_groups.tolist()) == ([60, 6], [40, 2])
    assert (result.undefined.tolist(), result.incomplete) == ([0, lacking.sum()], lacking.sum())
    assert result.num_labels == 2
    levels = [0.1, 0.9]
    np.testing.assert_allclose([end[1] for end in result.per_label[1:]], np.quantile(expected[~lacking, 1], levels))
    means = np.where(lacking, expected[:, 0], expected.mean(1))
    np.testing.assert_allclose(result.mean[1:], np.quantile(means, levels), **EXACT)
    enough = result.mean_over(result.positive_groups >= 10)
    np.testing.assert_allclose(enough, [end[0] for end in result.per_label], **EXACT)
    assert result.mean_over([0, 1]) == result.mean


def test_label_with_one_class_is_nan_and_named_and_not_in_the_mean():
    (scores, other), targets, _ = _problem(runs=2)
    targets[:, 1] = 0
    for call in (lambda: bootstrap_auroc(scores, targets), lambda: paired_difference(scores, other, targets)):
        with pytest.warns(UserWarning, match=r"labels \[1\]") as caught:
            result = call()
        assert [warning.filename for warning in caught] == [__file__]
        for part in result.per_label:
            np.testing.assert_array_equal(np.isnan(part), [False, True, False])
        assert result.mean.value == pytest.approx(result.per_label.value[[0, 2]].mean(), abs=1e-12)
        assert (result.num_labels, result.incomplete, result.positives[1]) == (2, 0, 0)
        with pytest.raises(ValueError, match="none of these labels"):
            result.mean_over([1])
    with pytest.warns(UserWarning, match=r"labels \[0, 1\]"):
        result = bootstrap_auroc(np.ones((5, 2)), np.zeros((5, 2)), n_resamples=3)
    assert np.isnan(result.mean).all()
    assert result.num_labels == 0


def test_groups_may_be_numbers_strings_or_a_tensor():
    (scores, *_), targets, numbers = _problem()
    given = [numbers, torch.tensor(numbers), [f"patient {g:02d}" for g in numbers], numbers * 1.5, list(numbers)]
    results = [bootstrap_auroc(scores, targets, groups, n_resamples=10).resamples for groups in given]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_order_of_the_images_does_not_matter_when_groups_are_given():
    (scores, *_), targets, groups = _problem()
    order = np.random.default_rng(0).permutation(200)
    shuffled = bootstrap_auroc(scores[order], targets[order], groups[order], n_resamples=10)
    given = bootstrap_auroc(scores, targets, groups, n_resamples=10)
    np.testing.assert_array_equal(shuffled.resamples, given.resamples)


def test_patients_with_equal_images_widen_the_interval_by_the_square_root_of_their_number():
    (scores, *_), targets, _ = _problem(n=300, k=1)
    copies = np.repeat(np.arange(300), 4)
    images = bootstrap_auroc(scores[copies], targets[copies], n_resamples=1000)
    patients = bootstrap_auroc(scores[copies], targets[copies], copies, n_resamples=1000)
    once = bootstrap_auroc(scores, targets, n_resamples=1000)
    np.testing.assert_array_equal(patients.resamples, once.resamples)
    assert patients.resamples.std() / images.resamples.std() == pytest.approx(2, rel=0.1)


def test_same_seed_same_result():
    (scores, *_), targets, _ = _problem()
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
    low, high = bootstrap_auroc(scores, targets, n_resamples=300, confidence=0.8).per_label[1:]
    assert 0.71 < ((low < truth) & (truth < high)).mean() < 0.89  # 0.8 and three standard errors of a share of 200


@pytest.mark.parametrize("grouped", [False, True], ids=["images", "patients"])
def test_difference_is_that_of_two_bootstraps_with_the_same_seed(grouped):
    (first, second, *_), targets, patients = _problem()
    options = {"groups": patients if grouped else None, "n_resamples": 50, "seed": 7}
    result = paired_difference(first, second, targets, confidence=0.8, **options)
    one, two = bootstrap_auroc(first, targets, **options), bootstrap_auroc(second, targets, **options)
    resamples = one.resamples - two.resamples
    np.testing.assert_array_equal(result.per_label.value, one.per_label.value - two.per_label.value)
    np.testing.assert_array_equal(result.resamples, resamples)
    np.testing.assert_allclose(result.per_label[1:], np.quantile(resamples, [0.1, 0.9], axis=0), **EXACT)
    assert result.mean.value == pytest.approx(one.mean.value - two.mean.value, abs=1e-12)
    np.testing.assert_allclose(result.mean[1:], np.quantile(resamples.mean(axis=1), [0.1, 0.9]), **EXACT)
    assert result.positive_groups.tolist() == one.positive_groups.tolist()


def test_perfect_against_useless_against_reversed_and_against_itself():
    targets = np.arange(40)[:, None] % 2
    constant, perfect = np.zeros((40, 1)), targets.astype(float)
    for baseline, expected in ((constant, 0.5), (-perfect, 1.0), (perfect, 0.0)):
        result = paired_difference(perfect, baseline, targets, n_resamples=20)
        np.testing.assert_array_equal(result.per_label, [[expected]] * 3)


def test_pairing_narrows_the_interval_of_models_that_agree():
    (scores, *_), targets, patients = _problem(n=400)
    near = scores + np.random.default_rng(1).normal(scale=0.1, size=scores.shape)
    one = bootstrap_auroc(scores, targets, patients, n_resamples=200).per_label
    both = paired_difference(near, scores, targets, patients, n_resamples=200).per_label
    assert (both.high - both.low < (one.high - one.low) / 3).all()


def test_aurocs_are_averaged_over_the_runs_of_each_side_and_scores_are_not():
    runs, targets, patients = _problem(runs=5)
    result = paired_difference(runs[:3], runs[3:], targets, patients, n_resamples=30)
    single = [bootstrap_auroc(scores, targets, patients, n_resamples=30) for scores in runs]
    expected = np.mean([run.resamples for run in single[:3]], 0) - np.mean([run.resamples for run in single[3:]], 0)
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    ensemble = paired_difference(runs[:3].mean(0), runs[3:].mean(0), targets, patients, n_resamples=30)
    assert (np.abs(ensemble.per_label.value - result.per_label.value) > 1e-3).any()


def test_runs_may_be_arrays_tensors_or_lists_of_them():
    runs, targets, patients = _problem()
    exact = torch.tensor(runs, dtype=torch.float64, requires_grad=True)
    expected = paired_difference(runs, runs[0], targets, patients, n_resamples=5)
    for given in (exact, list(exact), tuple(runs), runs.tolist()):
        result = paired_difference(given, runs[0].tolist(), torch.tensor(targets), patients, n_resamples=5)
        np.testing.assert_array_equal(result.resamples, expected.resamples)
    of_one = paired_difference(runs[:, :, 0], runs[0, :, 0], targets[:, 0], patients, n_resamples=5)
    np.testing.assert_array_equal(of_one.resamples, expected.resamples[:, :1])


def test_interval_of_a_number_and_of_several():
    resamples = np.arange(12.0).reshape(6, 2)
    resamples[0, 0] = np.nan
    several = Interval.from_resamples([5.0, 6.0], resamples, confidence=0.5)
    for k, expected in enumerate((resamples[1:, 0], resamples[:, 1])):
        one = Interval.from_resamples(several.value[k], resamples[:, k], confidence=0.5)
        assert one == (several.value[k], *np.quantile(expected, [0.25, 0.75]))
        assert one == tuple(end[k] for end in several)
    assert np.isnan(Interval.from_resamples(1.0, [np.nan])[1:]).all()


@pytest.mark.parametrize("side", ["scores", "baseline"])
@pytest.mark.parametrize(
    "given",
    [
        np.zeros((4, 3)),
        np.zeros((2, 2, 4, 2)),
        np.zeros((0, 4, 2)),
        [],
        [np.zeros((4, 2)), np.zeros((3, 2))],
        [np.zeros((4, 2)), np.full((4, 2), np.nan)],
    ],
)
def test_bad_runs_are_named_by_their_side(side, given):
    sides = {"scores": np.zeros((4, 2)), "baseline": np.zeros((4, 2)), side: given}
    with pytest.raises(ValueError, match=f"^{side} "):
        paired_difference(**sides, targets=[[0, 1], [1, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize("option", [{"groups": ["a"] * 4}, {"n_resamples": 0}, {"confidence": 95}])
def test_bad_options_are_refused(option):
    scores, targets = [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]
    for function, given in ((bootstrap_auroc, [scores]), (paired_difference, [scores, scores])):
        with pytest.raises(ValueError, match=r"groups|n_resamples|confidence"):
            function(*given, targets, **option)
