import sys

import numpy as np
import pytest
import torch

from causalcxr.bench import linear_probe

RNG = np.random.default_rng(0)
STRATA = np.arange(400) % 2


def split(features, strata=STRATA):
    return features[:200], strata[:200], features[200:], strata[200:]


def test_reads_what_is_linearly_there_at_any_scale():
    noise = RNG.normal(size=(400, 6))
    noise[:, 3] += 8 * STRATA
    assert linear_probe(*split(noise * [1e3, 1e-3, 1, 1e-4, 1, 1] + 50)) > 0.99


def test_reads_nothing_where_there_is_nothing_or_nothing_linear():
    noise = RNG.normal(size=(400, 6))
    assert linear_probe(*split(noise)) == pytest.approx(0.5, abs=0.1)
    sign = np.where(RNG.random(400) < 0.5, -1, 1)
    noise[:, 0] = sign * (1 + STRATA)  # further from zero, on either side
    assert linear_probe(*split(noise)) == pytest.approx(0.5, abs=0.1)


def test_needs_images_on_which_the_confounder_is_independent_of_the_finding():
    finding = np.arange(400) // 2 % 2
    features = finding[:, None] + 0.1 * RNG.normal(size=(400, 3))  # of the finding alone
    agreeing = np.where(np.arange(400) % 20 == 0, 1 - finding, finding)
    assert linear_probe(*split(features, agreeing)) > 0.85
    assert linear_probe(*split(features)) == pytest.approx(0.5, abs=0.1)


def test_takes_tensors_and_flattens():
    features = (
        torch.randn(400, 2, 3, generator=torch.Generator().manual_seed(0)) + torch.from_numpy(STRATA)[:, None, None]
    )
    expected = linear_probe(*split(features.flatten(1).numpy()))
    assert linear_probe(*split(features, torch.from_numpy(STRATA))) == expected
    assert 0.9 < expected < 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            (np.ones(4), [0, 1, 0, 1], np.ones((2, 1)), [0, 1]),
            r"features_train must be \(N, D\) and not empty, got \(4,\)",
        ),
        (
            (np.ones((0, 2)), [], np.ones((2, 2)), [0, 1]),
            r"features_train must be \(N, D\) and not empty, got \(0, 2\)",
        ),
        ((np.full((2, 2), np.inf), [0, 1], np.ones((2, 2)), [0, 1]), "features_train must be finite, got 4 values"),
        (
            (np.ones((2, 2)), [0, 1], np.ones((2, 2)), [1, 1]),
            "strata_test must have images with and without .* got 1 only",
        ),
        ((np.ones((2, 2)), [0, 1, 1], np.ones((2, 2)), [0, 1]), r"strata_train must have shape \(2,\)"),
        (
            (np.ones((2, 2)), [0, 1], np.ones((2, 3)), [0, 1]),
            "features_train and features_test must be as wide, got 2 and 3",
        ),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        linear_probe(*arguments)


def test_names_the_extra_where_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"scikit-learn, which is in the extra: pip install 'causalcxr\[train\]'"):
        linear_probe(*split(RNG.normal(size=(400, 2))))
