import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from causalcxr import CausalOutput
from causalcxr.bench import (
    BenchResult,
    ConfoundedDataset,
    Predictions,
    StratifiedImages,
    as_dict,
    evaluate,
    measure,
)
from causalcxr.metrics import (
    Interval,
    bootstrap_auroc,
    expected_calibration_error,
    paired_difference,
    worst_group_auroc,
)


def reads_marker(images):
    return torch.where(images.amax(dim=(2, 3)) > 0.4, 2.0, -2.0)


def reads_finding(images):
    return 100 * (images[:, :, 28:36, 28:36].mean(dim=(2, 3)) - 0.15)


class Causal(nn.Module):
    """Causal features that hold the middle of the image, confounder features that hold its brightest pixel."""

    def forward_causal(self, images, need_attention=False):
        attention = torch.full((len(images), 1, 4, 4), 1 / 16) if need_attention else None
        causal, confounder = reads_finding(images)[:, None] / 10, images.amax(dim=(2, 3))[:, None]
        return CausalOutput(causal[:, 0], -causal[:, 0], causal, causal, confounder, attention)


def variants(dataset):
    return {
        "same": dataset,
        "none": dataset.with_correlation(0.5),
        "reversed": dataset.with_correlation(1 - dataset.correlation),
        "absent": dataset.without_markers(),
    }


@pytest.fixture
def tests(films):
    return variants(ConfoundedDataset(*films, marker="letter", correlation=0.95))


def noisy(test, strength=1.0, seed=0):
    """Predictions that depend on finding and confounder, with noise."""
    noise = torch.randn(len(test.strata), generator=torch.Generator().manual_seed(seed))
    return Predictions(test.targets[:, 0] + strength * test.strata + noise)


def run(model, tests, **kwargs):
    return evaluate(model, tests, n_resamples=50, **kwargs)


def test_a_classifier_that_reads_the_marker_has_the_correlation_as_its_auroc(tests):
    result = run(reads_marker, tests)
    aurocs = {name: scores.auroc.value for name, scores in result.tests.items()}
    assert aurocs == pytest.approx({"same": 0.95, "none": 0.5, "reversed": 0.05, "absent": 0.5})
    assert result.drop.value == pytest.approx(0.9)
    assert result.gap.value == pytest.approx(0.45)
    p = 1 / (1 + math.exp(-2))
    for name in ("same", "none", "reversed"):
        scores = result.tests[name]
        assert scores.worst_group.value == 0.5
        assert scores.shift == pytest.approx(2 * p - 1)
        assert scores.mean_probability == pytest.approx(0.5)
    assert result.tests["same"].ece == pytest.approx(0.95 - p)
    assert result.tests["reversed"].ece == pytest.approx(p - 0.05)
    assert math.isnan(result.tests["absent"].shift)
    assert result.tests["absent"].mean_probability == pytest.approx(1 - p)
    assert (result.probe_causal, result.probe_confounder) == (None, None)


def test_a_classifier_that_reads_the_finding_does_not_care(tests):
    result = run(reads_finding, tests)
    for name, scores in result.tests.items():
        assert scores.auroc == (1, 1, 1)
        assert scores.worst_group == (1, 1, 1)
        assert scores.ece < 0.01
        assert math.isnan(scores.shift) if name == "absent" else abs(scores.shift) < 1e-3
    assert result.drop == result.gap == (0, 0, 0)


def test_figures_are_those_of_the_metrics(films):
    patient = np.arange(200) // 3
    tests = variants(ConfoundedDataset(*films, marker="letter", correlation=0.9, patient=patient))
    predictions = {name: noisy(test, seed=n) for n, (name, test) in enumerate(tests.items())}
    result = measure(predictions, tests, n_resamples=100, seed=5)
    options = {"groups": patient, "n_resamples": 100, "seed": 5}
    targets = films.targets
    for name, test in tests.items():
        logits, scores = predictions[name].logits, result.tests[name]
        expected = bootstrap_auroc(logits, targets, **options)
        assert scores.auroc == pytest.approx([end[0] for end in expected.per_label])
        assert scores.worst_group.value == worst_group_auroc(logits, targets, test.strata)[0]
        assert scores.worst_group.low <= scores.worst_group.value <= scores.worst_group.high
        assert scores.ece == expected_calibration_error(logits.sigmoid(), targets)[0]
        assert scores.mean_probability == pytest.approx(logits.sigmoid().mean().item())
    for difference, name in ((result.drop, "same"), (result.gap, "none")):
        paired = paired_difference(predictions[name].logits, predictions["reversed"].logits, targets, **options)
        assert difference == pytest.approx([end[0] for end in paired.per_label])


def test_tests_of_different_images_of_the_same_patients_are_drawn_together():
    # Every patient is once in each test; scores depend on the patient, so that the difference is 0 in all resamples.
    rng = np.random.default_rng(0)
    order = {"same": np.arange(60), "reversed": rng.permutation(60)}
    quality = rng.normal(size=60) + np.arange(60) % 2
    tests, predictions = {}, {}
    for name, patient in order.items():
        columns = {"targets": torch.from_numpy(patient % 2)[:, None], "strata": torch.arange(60) // 30}
        tests[name] = SimpleNamespace(**columns, patient=[f"P{number}" for number in patient])
        predictions[name] = Predictions(torch.from_numpy(quality[patient]))
    result = measure(predictions, tests, n_resamples=50)
    assert result.drop == pytest.approx((0, 0, 0))
    assert result.tests["same"].auroc.low < result.tests["same"].auroc.high


def test_tests_of_different_sizes_without_patients():
    tests, predictions = {}, {}
    for name, length in (("same", 80), ("none", 60), ("reversed", 50)):
        images = torch.rand(length, 1, 8, 8)
        tests[name] = StratifiedImages(images, torch.arange(length) % 2, strata=torch.arange(length) // 2 % 2)
        predictions[name] = noisy(tests[name])
    result = measure(predictions, tests, n_resamples=50)
    for name in tests:
        scores = result.tests[name]
        assert scores.auroc.low < scores.auroc.value < scores.auroc.high
    aurocs = [result.tests[name].auroc.value for name in ("same", "none", "reversed")]
    assert result.drop.value == pytest.approx(aurocs[0] - aurocs[2])
    assert result.gap.value == pytest.approx(aurocs[1] - aurocs[2])


def test_shift_compares_at_equal_label():
    # Probabilities by (label, confounder); the mean over images with and without would also differ by the label.
    p = torch.tensor([[0.1, 0.3], [0.6, 0.9]])
    targets, strata = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 1, 1, 1, 1])
    test = SimpleNamespace(targets=targets, strata=strata)
    predictions = Predictions(p[targets, strata].logit())
    result = measure({"same": predictions}, {"same": test}, n_resamples=10)
    assert result.tests["same"].shift == pytest.approx((0.2 + 0.3) / 2)
    assert (result.drop, result.gap) == (None, None)


def test_a_stratum_of_one_class_is_left_out_of_the_worst_group(films):
    strata = films.targets * (torch.arange(200) < 100)  # on positives alone
    test = StratifiedImages(*films, strata=strata)
    predictions = noisy(test)
    result = measure({"same": predictions}, {"same": test}, n_resamples=20)
    expected = worst_group_auroc(predictions.logits, films.targets, strata)[0]
    assert result.tests["same"].worst_group.value == expected
    assert math.isnan(result.tests["same"].shift)
    certain = StratifiedImages(*films, strata=films.targets)
    result = measure({"same": predictions}, {"same": certain}, n_resamples=20)
    assert all(math.isnan(value) for value in result.tests["same"].worst_group)


def test_features_and_maps_of_a_causal_model(tests):
    result = run(Causal(), tests)
    assert result.probe_confounder > 0.99
    assert result.probe_causal == pytest.approx(0.5, abs=0.1)
    for name in ("same", "none", "reversed"):
        scores = result.tests[name]
        assert scores.attention_share == pytest.approx(scores.area_share)  # of a flat map
        marked = [tests[name].mask(i).float().mean() for i in range(200) if tests[name].strata[i]]
        assert scores.area_share == pytest.approx(np.mean(marked))
    assert math.isnan(result.tests["absent"].area_share)
    assert result.tests["same"].auroc.value == 1


def test_halves_of_the_probe_share_no_patient(films):
    # The stratum is the patient's: a probe that saw the patient would know it, one that did not cannot.
    strata = torch.arange(200) // 2 % 2
    test = StratifiedImages(*films, strata=strata, patient=np.arange(200) // 2)
    names = torch.nn.functional.one_hot(torch.arange(200) // 2).float()
    predictions = Predictions(films.targets.float(), names, names)
    assert measure({"none": predictions}, {"none": test}, n_resamples=10).probe_causal == pytest.approx(0.5, abs=0.15)
    alone = StratifiedImages(*films, strata=strata)
    assert measure({"none": predictions}, {"none": alone}, n_resamples=10).probe_causal > 0.65


def test_seeds_decide(tests):
    same = {"same": tests["same"], "none": tests["none"]}
    predictions = {name: noisy(test)._replace(causal=torch.randn(200, 4)) for name, test in same.items()}
    results = [measure(predictions, same, n_resamples=20, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0].tests["same"].auroc != results[2].tests["same"].auroc
    assert results[0].tests["same"].auroc.value == results[2].tests["same"].auroc.value
    assert results[0].probe_causal != results[2].probe_causal


def test_a_result_as_json(tests):
    result = run(Causal(), tests)
    read = json.loads(json.dumps(as_dict(result), allow_nan=False))
    assert read["tests"]["same"]["auroc"] == result.tests["same"].auroc._asdict()
    assert read["tests"]["absent"]["shift"] is None
    assert read["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert read["probe_confounder"] == result.probe_confounder
    assert list(read) == list(BenchResult._fields)
    assert as_dict(((0.5, math.nan), Interval(1.0, 1.0, 1.0))) == [[0.5, None], {"value": 1.0, "low": 1.0, "high": 1.0}]


def test_a_probe_reads_what_is_linearly_there_at_any_scale(films):
    strata = torch.arange(200) // 2 % 2
    noise = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    nonlinear = noise.clone()
    nonlinear[:, 0] = noise[:, 1].sign() * (1 + strata)  # further from zero, on either side
    noise[:, 3] += 8 * strata
    scaled = noise * torch.tensor([1e3, 1e-3, 1, 1e-4, 1, 1]) + 50
    test = {"none": StratifiedImages(*films, strata=strata)}
    result = measure({"none": Predictions(films.targets.float(), scaled, nonlinear)}, test, n_resamples=2)
    assert result.probe_causal > 0.99
    assert result.probe_confounder == pytest.approx(0.5, abs=0.15)


def never(images, **_):
    raise AssertionError("images were scored before the tests were checked")


def test_bad_tests_are_refused_before_anything_is_scored(films, tests):
    healthy = StratifiedImages(films.images, torch.zeros(200), strata=films.targets)
    known = ConfoundedDataset(*films, marker="letter", correlation=0.9, patient=np.arange(200))
    for given, error, message in (
        ({}, ValueError, "there must be tests"),
        ({"same": torch.utils.data.TensorDataset(films.images)}, TypeError, "TensorDataset"),
        ({"absent": healthy}, ValueError, "'absent' must have positives and negatives"),
        ({"same": SimpleNamespace(targets=films.targets, strata=films.targets + 1)}, ValueError, "0 or 1, got 2"),
        ({"same": SimpleNamespace(targets=films.targets[:20], strata=films.targets)}, ValueError, r"got \(20,\)"),
        ({"same": tests["same"], "reversed": known}, ValueError, "none: .*same"),
    ):
        with pytest.raises(error, match=message):
            run(never, given)
    never.forward_causal = never
    with pytest.raises(ValueError, match="'none' is too small for a probe"):
        run(never, {"none": tests["absent"]})


def test_predictions_that_do_not_fit_the_tests_are_refused(tests):
    predictions = {name: noisy(test) for name, test in tests.items()}
    for changed in ({"same": predictions["same"]}, predictions | {"none": Predictions(torch.zeros(7))}):
        with pytest.raises(ValueError, match="one for each image of each test"):
            measure(changed, tests)
