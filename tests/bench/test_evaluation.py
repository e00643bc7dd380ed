import json
import math
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from causalcxr.bench import BenchResult, ConfoundedDataset, StratifiedImages, as_dict, evaluate
from causalcxr.metrics import bootstrap_auroc, expected_calibration_error, paired_difference, worst_group_auroc


def reads_finding(images):
    return 100 * (images[:, :, 28:36, 28:36].mean(dim=(2, 3)) - 0.15)


def forward_causal(images, need_attention):
    """Causal features from the centre of the image, confounder features from its brightest pixel and large noise."""
    causal = reads_finding(images)[:, None] / 10
    confounder = torch.stack([1e-4 * images.amax(dim=(2, 3)), 1e3 * images[:, :, 28, 28]], dim=2)
    attention = torch.full((len(images), 1, 4, 4), 1 / 16)
    return SimpleNamespace(logits=causal[:, 0], causal=causal, confounder=confounder, attention=attention)


def known(logits, **features):
    """A model that returns given logits (N,), and features (N, D), for the images of all tests in order."""
    columns = {name: iter(torch.as_tensor(column)[:, None]) for name, column in {"logits": logits, **features}.items()}

    def output(images, **_):
        return SimpleNamespace(**{k: torch.stack([*islice(column, len(images))]) for k, column in columns.items()})

    return SimpleNamespace(forward_causal=output) if features else lambda images: output(images).logits


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
    scores = run(known(torch.where(strata == 0, targets, 1 - targets) * 2.0), {"same": stratified(targets, strata)})
    assert scores.tests["same"].worst_group == (0, 0, 0)


def test_features_and_maps_of_a_causal_model_and_the_result_as_json(tests):
    result = run(SimpleNamespace(forward_causal=forward_causal), tests)
    assert result.probe_confounder > 0.99
    assert result.probe_causal == pytest.approx(0.5, abs=0.1)
    scores = result.tests["same"]
    assert scores.attention_share == pytest.approx(scores.area_share)  # the map is flat
    marked = [tests["same"].mask(i).float().mean() for i in range(200) if tests["same"].strata[i]]
    assert scores.area_share == pytest.approx(np.mean(marked))
    read = json.loads(json.dumps(as_dict(result), allow_nan=False))
    assert list(read) == list(BenchResult._fields)
    assert read["tests"]["same"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert read["tests"]["absent"]["area_share"] is None  # was NaN
    assert read["probe_confounder"] == result.probe_confounder


def test_halves_of_the_probe_share_no_patient(films):
    # All images of a patient share a stratum, so only a probe that has seen the patient can predict it.
    patient = np.arange(200) // 2
    names = nn.functional.one_hot(torch.from_numpy(patient)).float()
    for given, least, most in ((patient, 0.35, 0.65), (None, 0.65, 1.0)):
        test = stratified(films.targets, patient % 2, given)
        model = known(noisy(test), causal=names, confounder=names)
        assert least < run(model, {"none": test}).probe_causal < most


def test_the_seed_decides_the_halves_of_the_probe(films):
    test, features = stratified(films.targets, torch.arange(200) // 2 % 2), torch.randn(200, 4)
    first, same, other = (
        run(known(noisy(test), causal=features, confounder=features), {"none": test}, seed=seed) for seed in (0, 0, 1)
    )
    assert first == same
    assert first.probe_causal != other.probe_causal


def test_probabilities_in_the_place_of_logits_are_noticed(tests):
    with pytest.warns(UserWarning, match="like probabilities"):
        given = run(lambda images: reads_finding(images).sigmoid(), tests)
    expected = run(reads_finding, tests)
    assert given.tests["none"].auroc == expected.tests["none"].auroc


def test_missing_scikit_learn_is_noticed_before_anything_is_scored(tests, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.pipeline", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        run(SimpleNamespace(forward_causal=None), tests)


def test_bad_tests_are_refused_before_anything_is_scored(films, tests):
    for given, error, message in (
        ({}, ValueError, "tests must not be empty"),
        ([tests["same"]], TypeError, "mapping"),
        ({"same": torch.utils.data.TensorDataset(films.images)}, TypeError, "TensorDataset"),
        ({"absent": stratified([0, 0], [0, 1])}, ValueError, "'absent'"),
        ({"same": stratified([0, 1], [0, 1]), "reversed": tests["reversed"]}, ValueError, "none: .*same"),
        ({"none": tests["absent"]}, ValueError, "too small for a probe"),
    ):
        with pytest.raises(error, match=message):
            run(SimpleNamespace(forward_causal=None), given)
