import itertools
import pickle

import numpy as np
import pytest
import torch

from causalcxr.bench import StructuralCXR, do_error
from causalcxr.data import SyntheticCXR

OUTCOMES = [((0.1, 0.5), (0.5, 0.9)), ((0.05, 0.1), (0.9, 0.2))]
CORRELATIONS = [0.5, 0.8, 0.95, 0.1]
MANY = 40_000


@pytest.fixture(scope="module", params=list(itertools.product(CORRELATIONS, OUTCOMES)), ids=str)
def many(request):
    correlation, outcome = request.param
    return StructuralCXR(MANY, correlation=correlation, outcome=outcome)


def mean(values):
    return values.float().mean().item()


def test_the_closed_forms_are_what_counting_gives(many):
    y, x, c = many.targets[:, 0], many.finding, many.strata
    for value in (0, 1):
        assert mean(y[x == value]) == pytest.approx(many.conditional_probability(value), abs=0.015)
        assert mean(many.do(value).targets) == pytest.approx(many.do_probability(value), abs=0.015)
        adjusted = sum(mean(y[(x == value) & (c == stamp)]) * mean(c == stamp) for stamp in (0, 1))
        assert adjusted == pytest.approx(many.do_probability(value), abs=0.03)


def test_the_model_is_the_one_that_is_described(many):
    d, x, c, r = many.cause, many.finding, many.strata, many.correlation
    assert [mean(v) for v in (d, x, c)] == pytest.approx([0.5] * 3, abs=0.015)
    assert mean(c[x == 1]) == pytest.approx(r, abs=0.015)
    assert mean(c[x == 0]) == pytest.approx(1 - r, abs=0.015)
    for value in (0, 1):  # X and C have D in common and nothing else
        given = d == value
        assert abs(mean((x * c)[given]) - mean(x[given]) * mean(c[given])) < 0.01
        for stamp in (0, 1):
            cell = (x == value) & (c == stamp)
            expected = many.outcome[value, stamp]
            assert mean(many.targets[cell]) == pytest.approx(expected, abs=0.05)
            # Y depends on D through X and C alone.
            parts = [many.targets[cell & (d == cause)] for cause in (0, 1) if (cell & (d == cause)).sum() > 300]
            assert all(mean(part) == pytest.approx(expected, abs=0.1) for part in parts)


def test_confounding_separates_seeing_from_doing():
    confounded, free = StructuralCXR(1, correlation=0.9), StructuralCXR(1, correlation=0.5)
    assert confounded.do_probability(1) == pytest.approx(0.7)
    assert confounded.do_probability(0) == pytest.approx(0.3)
    assert confounded.conditional_probability(1) == pytest.approx(0.86)
    assert confounded.conditional_probability(0) == pytest.approx(0.14)
    for x in (0, 1):
        assert free.conditional_probability(x) == pytest.approx(free.do_probability(x))


def test_an_intervention_changes_the_finding_and_what_follows_from_it():
    dataset = StructuralCXR(60, correlation=0.9)
    changed = dataset.do(1)
    assert changed.finding.tolist() == [1] * 60
    assert torch.equal(changed.strata, dataset.strata)
    assert torch.equal(changed.cause, dataset.cause)
    had_it = dataset.finding == 1
    assert torch.equal(changed.targets[had_it], dataset.targets[had_it])
    assert bool((changed.targets >= dataset.targets).all())
    assert not torch.equal(changed.targets, dataset.targets)
    assert 0 < dataset.finding.sum() < 60
    for i in range(8):
        same_film = torch.equal(changed[i][0], dataset[i][0])
        assert same_film == bool(had_it[i])


def test_images_show_finding_and_stamp():
    dataset = StructuralCXR(20, correlation=0.8, finding="Effusion", seed=3)
    films = SyntheticCXR(20, image_size=64, labels=["Effusion"], prevalence=0.5, images_per_patient=1, seed=3)
    assert len(set(zip(dataset.finding.tolist(), dataset.strata.tolist(), strict=True))) == 4
    for i in range(20):
        image, target = dataset[i]
        x, stamp = float(dataset.finding[i]), ["portable"] if dataset.strata[i] else []
        assert torch.equal(image, films.sample(i, target=[x], markers=stamp).image)
        assert torch.equal(target, dataset.targets[i])
        changed = image != films.sample(i, target=[x], markers=[]).image
        assert torch.equal(dataset.mask(i), changed[0])
        assert bool(changed.any()) == bool(dataset.strata[i])


def test_depends_on_seed_and_index_alone():
    short, long, other = StructuralCXR(20, seed=1), StructuralCXR(80, seed=1), StructuralCXR(20, seed=2)
    copy = pickle.loads(pickle.dumps(short))  # noqa: S301
    for name in ("targets", "finding", "strata", "cause"):
        assert torch.equal(getattr(short, name), getattr(long, name)[:20])
        assert not torch.equal(getattr(short, name), getattr(other, name))
    for i in (0, 7):
        assert torch.equal(short[i][0], long[i][0])
        assert torch.equal(copy[i][0], long[i][0])
    assert torch.equal(short[-1][0], short[19][0])
    assert len(list(StructuralCXR(3))) == 3
    for method in (short.__getitem__, short.mask):
        with pytest.raises(IndexError, match="index 20 is out of range for 20 images"):
            method(20)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"correlation": 1.1}, ValueError, r"correlation must lie in \[0, 1\]"),
        (
            {"outcome": (0.1, 0.5)},
            ValueError,
            r"outcome must be four probabilities, outcome\[x\]\[c\] .* \(0\.1, 0\.5\)",
        ),
        ({"outcome": ((0.1, 0.5), (0.5, 1.5))}, ValueError, "outcome must be four probabilities"),
        ({"outcome": ((0.1, 0.5), (0.5, np.nan))}, ValueError, "outcome must be four probabilities"),
        ({"finding": "Nodul"}, ValueError, "unknown label 'Nodul'"),
        ({"length": 0}, ValueError, "length must be at least 1, got 0"),
    ],
)
def test_bad_arguments(kwargs, error, match):
    with pytest.raises(error, match=match):
        StructuralCXR(**{"length": 2, **kwargs})


@pytest.mark.parametrize("method", ["do", "do_probability", "conditional_probability"])
def test_bad_values(method):
    with pytest.raises(ValueError, match="x must be 0 or 1, without or with the finding, got 2"):
        getattr(StructuralCXR(2), method)(2)


# do_error


def reference(p, x, dataset):
    """Literal: every film in turn."""
    truth = [dataset.do_probability(int(value)) for value in x]
    bias = [sum(p[i] - truth[i] for i in range(len(p)) if x[i] == value) / sum(x == value).item() for value in (0, 1)]
    calibration = 0.0
    for m in range(1, 16):
        members = [i for i in range(len(p)) if (m - 1) / 15 < p[i] <= m / 15 or (m == 1 and p[i] == 0)]
        if members:
            q, c = (sum(v[i] for i in members) / len(members) for v in (truth, p))
            calibration += len(members) / len(p) * abs(q - c)
    return bias, sum(abs(a - b) for a, b in zip(p, truth, strict=True)) / len(p), calibration


def test_error_is_that_of_a_literal_reference():
    dataset = StructuralCXR(300, correlation=0.8)
    p = np.random.default_rng(0).random(300)
    p[:2] = 0, 1
    bias, absolute, calibration = reference(p, dataset.finding, dataset)
    error = do_error(torch.from_numpy(p), dataset.finding, dataset)
    assert error.bias == pytest.approx(bias)
    assert error.absolute == pytest.approx(absolute)
    assert error.calibration == pytest.approx(calibration)


def test_error_of_the_truth_of_what_is_seen_and_of_a_reader_of_the_stamp():
    dataset = StructuralCXR(4000, correlation=0.9)
    x, c = dataset.finding, dataset.strata
    truth, seen = (
        torch.tensor([probability(0), probability(1)], dtype=torch.float64)
        for probability in (dataset.do_probability, dataset.conditional_probability)
    )
    exact = do_error(truth[x], x, dataset)
    assert [*exact.bias, exact.absolute, exact.calibration] == pytest.approx([0] * 4, abs=1e-12)
    confounded = do_error(seen[x][:, None], x, dataset)
    assert confounded.bias == pytest.approx((-0.16, 0.16))
    assert [confounded.absolute, confounded.calibration] == pytest.approx([0.16, 0.16])
    both = do_error(dataset.outcome[x, c], x, dataset)  # P(Y | x, c): off by 0.2 in every film
    assert both.absolute == pytest.approx(0.2)
    assert both.bias == pytest.approx((-0.16, 0.16), abs=0.02)


def test_bias_is_nan_where_there_is_no_film():
    error = do_error([0.8, 0.8], [1, 1], StructuralCXR(2))
    assert np.isnan(error.bias[0])
    assert error.bias[1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("probabilities", "x", "match"),
    [
        ([0.5, 0.5], [0, 1, 1], r"probabilities must be one an image, shape \(3,\), got \(2,\)"),
        ([[0.5, 0.5]], [0, 1], r"probabilities must be one an image, shape \(2,\), got \(1, 2\)"),
        ([], [], r"probabilities must be one an image, shape \(0,\)"),
        ([0.5, 1.5], [0, 1], r"probabilities must lie in \[0, 1\]; apply a sigmoid"),
        ([0.5, np.nan], [0, 1], r"probabilities must lie in \[0, 1\]"),
        ([0.5, 0.5], [0, 2], "x must be 0 or 1, got 2"),
    ],
)
def test_bad_predictions(probabilities, x, match):
    with pytest.raises(ValueError, match=match):
        do_error(probabilities, x, StructuralCXR(2))
