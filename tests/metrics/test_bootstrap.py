"""The bootstrap against a literal one with copied rows and scikit-learn, and its counts for rare labels."""

import json

import numpy as np
import pytest
import torch

from causalcxr.metrics import bootstrap_auroc, paired_difference
from reference.auroc import draw, sklearn_auroc

EXACT = {"rtol": 0, "atol": 1e-12}


def literal_bootstrap(scores, targets, groups, n_resamples, seed):
    """Draw groups, copy their rows and score them with scikit-learn."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(n_resamples)]
    copies = [np.concatenate([rows[g] for g in each]) for each in drawn]
    return np.array([sklearn_auroc(scores[copy], targets[copy]) for copy in copies])


@pytest.mark.parametrize("grouped", [False, True], ids=["images", "patients"])
def test_resamples_equal_copied_rows_in_sklearn(grouped):
    (scores, *_), targets, _ = draw(n=120, decimals=0)  # with many ties
    # Uneven groups; zero-padded names sort in numeric order.
    groups = [f"{g:03d}" for g in np.sqrt(np.arange(120) * 13).astype(int)] if grouped else list(range(120))
    expected = literal_bootstrap(scores, targets, groups, n_resamples=50, seed=3)
    result = bootstrap_auroc(scores, targets, groups if grouped else None, n_resamples=50, confidence=0.8, seed=3)
    np.testing.assert_allclose(result.resamples, expected, **EXACT)
    np.testing.assert_allclose(result.per_label.value, sklearn_auroc(scores, targets), **EXACT)
    np.testing.assert_allclose(result.per_label[1:], np.quantile(expected, [0.1, 0.9], axis=0), **EXACT)
    np.testing.assert_allclose(result.mean[1:], np.quantile(expected.mean(1), [0.1, 0.9]), **EXACT)
    assert result.mean.value == pytest.approx(result.per_label.value.mean(), abs=1e-12)


def test_a_rare_label_is_counted_in_images_in_patients_and_in_resamples_that_lack_it():
    rng = np.random.default_rng(0)
    patients = np.arange(120) // 3
    targets = np.stack([np.arange(120) % 2, patients < 2], axis=1).astype(float)  # six images of two patients
    scores = rng.normal(size=(120, 2)).round(1) + targets
    expected = literal_bootstrap(scores, targets, patients.tolist(), n_resamples=60, seed=0)
    lacking = np.isnan(expected[:, 1])
    assert 0 < lacking.sum() < 30
    result = bootstrap_auroc(scores, targets, patients, n_resamples=60, confidence=0.8)
    assert (result.positives.tolist(), result.positive_groups.tolist()) == ([60, 6], [40, 2])
    assert (result.undefined.tolist(), result.incomplete) == ([0, lacking.sum()], lacking.sum())
    levels = [0.1, 0.9]
    np.testing.assert_allclose([end[1] for end in result.per_label[1:]], np.quantile(expected[~lacking, 1], levels))
    means = np.where(lacking, expected[:, 0], expected.mean(1))
    np.testing.assert_allclose(result.mean[1:], np.quantile(means, levels), **EXACT)


def test_label_with_one_class_is_nan_and_named_and_not_in_the_mean():
    (scores, other, _), targets, _ = draw()
    targets[:, 1] = 0
    for call in (lambda: bootstrap_auroc(scores, targets), lambda: paired_difference(scores, other, targets)):
        with pytest.warns(UserWarning, match=r"labels \[1\]") as caught:
            result = call()
        assert [warning.filename for warning in caught] == [__file__]
        for part in result.per_label:
            np.testing.assert_array_equal(np.isnan(part), [False, True, False])
        assert result.mean.value == pytest.approx(result.per_label.value[[0, 2]].mean(), abs=1e-12)
        assert (result.num_labels, result.incomplete, result.positives[1]) == (2, 0, 0)
    with pytest.warns(UserWarning, match=r"labels \[0, 1\]"):
        result = bootstrap_auroc(np.ones((5, 2)), np.zeros((5, 2)), n_resamples=3)
    assert np.isnan(result.mean).all()
    assert result.num_labels == 0


def test_groups_may_be_numbers_strings_or_a_tensor_and_images_in_any_order():
    (scores, *_), targets, numbers = draw()
    expected = bootstrap_auroc(scores, targets, numbers, n_resamples=10).resamples
    for groups in (torch.tensor(numbers), [f"patient {g:02d}" for g in numbers], numbers * 1.5, list(numbers)):
        np.testing.assert_array_equal(bootstrap_auroc(scores, targets, groups, n_resamples=10).resamples, expected)
    order = np.random.default_rng(0).permutation(200)
    shuffled = bootstrap_auroc(scores[order], targets[order], numbers[order], n_resamples=10)
    np.testing.assert_array_equal(shuffled.resamples, expected)


def test_difference_is_that_of_two_bootstraps_with_the_same_seed():
    (first, second, _), targets, patients = draw()
    options = {"groups": patients, "n_resamples": 50, "seed": 7}
    result = paired_difference(first, second, targets, confidence=0.8, **options)
    one, two = bootstrap_auroc(first, targets, **options), bootstrap_auroc(second, targets, **options)
    resamples = one.resamples - two.resamples
    np.testing.assert_array_equal(result.per_label.value, one.per_label.value - two.per_label.value)
    np.testing.assert_array_equal(result.resamples, resamples)
    np.testing.assert_allclose(result.per_label[1:], np.quantile(resamples, [0.1, 0.9], axis=0), **EXACT)
    assert result.mean.value == pytest.approx(one.mean.value - two.mean.value, abs=1e-12)
    np.testing.assert_allclose(result.mean[1:], np.quantile(resamples.mean(axis=1), [0.1, 0.9]), **EXACT)
    assert result.positive_groups.tolist() == one.positive_groups.tolist()


@pytest.mark.parametrize(("name", "value"), [("groups", ["a"] * 4), ("n_resamples", 0), ("confidence", 95)])
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        bootstrap_auroc([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], **{name: value})
    with pytest.raises(ValueError, match="baseline must be finite"):
        paired_difference([0.1, 0.2], [0.1, np.nan], [0, 1])


def test_figures_by_name():
    """JSON-ready, without labels that have only one class."""
    targets = np.random.default_rng(0).integers(0, 2, (40, 3))
    targets[:, 1] = 0
    with pytest.warns(UserWarning, match="undefined"):
        result = bootstrap_auroc(targets + np.arange(40)[:, None] / 7, targets, np.arange(40) // 2, n_resamples=20)
    for wrong in (["Mass", "Nodule"], ["Mass"] * 3, "abc"):
        with pytest.raises(ValueError, match=r"label_names must be (one name for each of 3 labels|unique)"):
            result.by_label(wrong)
    figures = json.loads(json.dumps(result.by_label(["Mass", "Nodule", "Hernia"]), allow_nan=False))
    assert list(figures) == ["mean", "Mass", "Hernia"]
    assert figures["mean"]["labels"] == 2
    assert figures["Hernia"]["positives"] == targets[:, 2].sum()
    assert figures["Hernia"]["low"] == pytest.approx(result.per_label.low[2])


def test_figures_that_are_undefined_are_null():
    with pytest.warns(UserWarning, match="undefined"):
        result = bootstrap_auroc([0.1, 0.2], [0, 0], n_resamples=5)
    nothing = {"value": None, "low": None, "high": None}
    assert result.by_label(["Mass"])["mean"] == nothing | {"labels": 0, "incomplete": 0}
