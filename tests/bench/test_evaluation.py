import json
import math
from itertools import islice

import numpy as np
import pytest
import torch

from causalcxr.bench import BenchResult, ConfoundedDataset, StratifiedImages, as_dict, evaluate
from causalcxr.metrics import (
    bootstrap_auroc,
    expected_calibration_error,
    paired_difference,
    reliability_curve,
    worst_group_auroc,
)


def reads_finding(images):
    return 100 * (images[:, :, 28:36, 28:36].mean(dim=(2, 3)) - 0.15)


def known(logits):
    """A model that returns given logits (N,) for the images of all tests in order."""
    left = iter(torch.as_tensor(logits)[:, None])
    return lambda images: torch.stack([*islice(left, len(images))])


@pytest.fixture
def tests(films):
    """Variants of one dataset, with up to three images per patient."""
    same = ConfoundedDataset(*films, marker="letter", correlation=0.95, patient=np.arange(200) // 3)
    others = {"none": same.with_correlation(0.5), "reversed": same.with_correlation(0.05)}
    return {"same": same, **others, "absent": same.without_markers()}


def stratified(targets, strata, patient=None):
    return StratifiedImages(torch.rand(len(targets), 1, 2, 2), targets, strata, patient=patient)


def noisy(test, seed=0):
    """Noisy logits that depend on finding and confounder."""
    noise = torch.randn(len(test), generator=torch.Generator().manual_seed(seed))
    return test.targets[:, 0] + test.strata + noise


def run(model, tests, n_resamples=50, **kwargs):
    return evaluate(model, tests, n_resamples=n_resamples, **kwargs)


def test_figures_are_those_of_the_metrics(tests, films):
    predictions = {name: noisy(test, seed=n) for n, (name, test) in enumerate(tests.items())}
    result = run(known(torch.cat(list(predictions.values()))), tests, n_resamples=100, seed=5)
    options, targets = {"groups": tests["same"].patient, "n_resamples": 100, "seed": 5}, films.targets
    for name, test in tests.items():
        logits, scores = predictions[name], result.tests[name]
        expected = bootstrap_auroc(logits, targets, **options)
        assert scores.auroc == pytest.approx([end[0] for end in expected.per_label])
        assert scores.worst_group.value == worst_group_auroc(logits, targets, test.strata)[0]
        assert scores.worst_group.low <= scores.worst_group.value <= scores.worst_group.high
        assert scores.ece == expected_calibration_error(logits.sigmoid(), targets)[0]
        assert scores.mean_probability == pytest.approx(logits.sigmoid().mean())
    for difference, name in ((result.drop, "same"), (result.gap, "none")):
        paired = paired_difference(predictions[name], predictions["reversed"], targets, **options)
        assert difference == pytest.approx([end[0] for end in paired.per_label])


def test_label_preparation_and_batch_size_go_to_predict(tests):
    sizes = []

    def second_of_two(images):
        sizes.append(len(images))
        return torch.cat([torch.zeros(len(images), 1), reads_finding(images)], dim=1)

    result = run(second_of_two, tests, label=1, prepare=lambda images: 1 - images, batch_size=150)
    assert result.tests["none"].auroc.value == 0
    assert sizes == [150, 50] * 4


def test_tests_of_different_images_of_the_same_patients_are_drawn_together():
    # Scores depend only on the patient, who has one image in one test and two in the other: they never differ.
    rng = np.random.default_rng(0)
    order = {"same": np.arange(60), "reversed": rng.permutation(np.arange(120) // 2)}
    quality = rng.normal(size=60) + np.arange(60) % 2
    tests = {
        name: stratified(patient % 2, np.arange(len(patient)) // 30 % 2, [f"P{number}" for number in patient])
        for name, patient in order.items()
    }
    result = run(known(np.concatenate([quality[patient] for patient in order.values()])), tests)
    assert result.drop == pytest.approx((0, 0, 0))
    assert result.tests["same"].auroc.low < result.tests["same"].auroc.high


@pytest.mark.filterwarnings("ignore:.* resamples of test 'same' have one class")
def test_shift_compares_at_equal_label():
    # Probabilities by (label, confounder). Means over images with and without the confounder would mix in the label.
    p = torch.tensor([[0.1, 0.3], [0.6, 0.9]])
    targets, strata = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 1, 1, 1, 1])
    result = run(known(p[targets, strata].logit()), {"same": stratified(targets, strata)})
    assert result.tests["same"].shift == pytest.approx((0.2 + 0.3) / 2)
    assert (result.drop, result.gap) == (None, None)


def test_a_stratum_of_one_class_is_left_out_of_the_worst_group(films):
    strata = films.targets * (torch.arange(200) < 100)  # only on positives
    test = stratified(films.targets, strata)
    scores = run(known(noisy(test)), {"same": test}).tests["same"]
    assert scores.worst_group.value == worst_group_auroc(noisy(test), films.targets, strata)[0]
    assert math.isnan(scores.shift)
    certain = run(known(noisy(test)), {"same": stratified(films.targets, films.targets)}).tests["same"]
    assert all(math.isnan(value) for value in certain.worst_group)


def test_resamples_that_lack_a_stratum_do_not_count_for_the_worst_group():
    """The ranking is perfect in one stratum and reversed in the other, which has two positives."""
    targets, strata = torch.tensor([0, 1] * 20 + [1, 1, 0, 0]), torch.tensor([0] * 40 + [1] * 4)
    test = {"same": stratified(targets, strata)}
    scores = run(known(torch.where(strata == 0, targets, 1 - targets) * 2.0), test, n_resamples=2000).tests["same"]
    assert scores.worst_group == (0, 0, 0)
    lacks_one, lacks_both = (42 / 44) ** 44, (40 / 44) ** 44  # of the two positives and the two negatives
    assert scores.undefined / 2000 == pytest.approx(2 * lacks_one - lacks_both, abs=0.04)


def test_result_as_json(tests):
    read = json.loads(json.dumps(as_dict(run(reads_finding, tests)), allow_nan=False))
    assert list(read) == list(BenchResult._fields)
    assert read["tests"]["same"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert read["tests"]["absent"]["shift"] is None  # was NaN
    curve = as_dict(reliability_curve([0.1, 0.9], [0, 1], n_bins=3))
    assert json.loads(json.dumps(curve, allow_nan=False))["frequency"] == [[0.0, None, 1.0]]


def test_intervals_of_few_patients_give_a_warning():
    patient = [0] * 4 + [1] * 4 + [2] * 2
    test = StratifiedImages(torch.rand(10, 1, 8, 8), [0] * 4 + [1] * 4 + [0] * 2, [0, 1] * 5, patient=patient)
    expected = bootstrap_auroc(range(10), test.targets[:, 0], patient, n_resamples=50).undefined[0]
    with pytest.warns(UserWarning, match=f"{expected} of 50 resamples of test 'few' have one class"):
        evaluate(known(torch.arange(10.0)), {"few": test}, n_resamples=50)


def test_probabilities_in_the_place_of_logits_are_noticed(tests):
    with pytest.warns(UserWarning, match="like probabilities"):
        given = run(lambda images: reads_finding(images).sigmoid(), tests)
    expected = run(reads_finding, tests)
    assert given.tests["none"].auroc == expected.tests["none"].auroc


def test_bad_tests_are_refused_before_anything_is_scored(films, tests):
    for given, error, message in (
        ({}, ValueError, "tests must not be empty"),
        ([tests["same"]], TypeError, "mapping"),
        ({"same": torch.utils.data.TensorDataset(films.images)}, TypeError, "TensorDataset"),
        ({"absent": stratified([0, 0], [0, 1])}, ValueError, "'absent'"),
        ({"same": stratified([0, 1], [0, 1]), "reversed": tests["reversed"]}, ValueError, "none: .*same"),
    ):
        with pytest.raises(error, match=message):
            run(None, given)
