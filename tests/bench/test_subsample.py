import numpy as np
import pytest

from causalcxr.bench import subsample

CELLS = [(y, c) for y in (0, 1) for c in (0, 1)]


def records(length=2000):
    """Finding, AP view, age and patient; AP patients are younger, patients with the finding older."""
    rng = np.random.default_rng(0)
    finding, ap = rng.random(length) < 0.3, rng.random(length) < 0.4
    age = np.clip(rng.normal(50 - 12 * ap + 8 * finding, 14), 0, 95).round()
    return finding, ap, age, rng.integers(length // 4, size=length)


def cell(finding, ap, y, c):
    return (finding == y) & (ap == c)


def by_cells(counts):
    """Finding and confounder with the given number of images per cell of CELLS."""
    return np.repeat(np.array(CELLS), counts, axis=0).T


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("aged", [False, True])
def test_shares_are_exact_and_numbers_the_same_for_every_correlation(correlation, aged):
    finding, ap, age, patient = records()
    chosen = subsample(finding, ap, correlation, patient=patient, age=age if aged else None)
    assert (np.diff(chosen) > 0).all()
    y, c = finding[chosen], ap[chosen]
    assert c[y].sum() == pytest.approx(correlation * y.sum(), abs=0.5)
    assert c[~y].sum() == pytest.approx((1 - correlation) * y.sum(), abs=0.5)
    assert y.sum() == (~y).sum()
    bands = [age // 10 == band for band in range(10)] if aged else [age >= 0]
    assert len(chosen) == 2 * sum(min((band & cell(finding, ap, *each)).sum() for each in CELLS) for band in bands)


def test_age_tells_neither_finding_nor_view():
    finding, ap, age, patient = records(6000)
    chosen = subsample(finding, ap, 0.7, patient=patient, age=age)
    bands = [(age[chosen] // 10)[cell(finding[chosen], ap[chosen], *each)] for each in CELLS]
    shares = np.array([np.bincount(each.astype(int), minlength=10) / len(each) for each in bands])
    assert np.ptp(shares, axis=0).max() < 0.01  # up to rounding to whole images


@pytest.mark.parametrize(("smallest", "people_in_it"), [(80, 40), (84, 41)])
def test_patients_give_one_image_each_before_any_gives_a_second(smallest, people_in_it):
    # In three of the cells, one of 41 patients has 60 of the 100 images.
    finding, ap = by_cells([100, 100, 100, smallest])
    patient = np.concatenate([np.tile(np.r_[np.zeros(60, int), np.arange(1, 41)], 3), np.arange(smallest)])
    chosen = subsample(finding, ap, 0.5, patient=patient.astype(str))
    assert len(chosen) == 2 * smallest  # equally many per cell
    for each in CELLS[:3]:
        people = patient[chosen][cell(finding[chosen], ap[chosen], *each)]
        assert len(set(people)) == people_in_it
        assert (np.bincount(people) <= 2).all()


def test_one_seed_chooses_the_same_and_settings_share_images():
    finding, ap, age, patient = records()

    def choose(correlation, seed):
        return set(subsample(finding, ap, correlation, patient=patient, age=age, seed=seed).tolist())

    first = choose(0.7, 1)
    assert first == choose(0.7, 1)
    assert len(first & choose(0.7, 2)) < 0.9 * len(first)
    agreeing = {i for i in first if finding[i] == ap[i]}
    assert len(agreeing & choose(0.9, 1)) > 0.95 * len(agreeing)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"counts": [40, 0, 20, 30]}, r"all four cells .* 0 \(0, 1\)"),
        ({"age": np.repeat([10, 20, 30, 40], 20)}, "in one band of ten years"),
        ({"age": np.full(80, np.nan)}, "age must be years, but 80 of 80 are missing"),
        ({"age": 40.0}, r"age must have shape \(80,\), got \(\)"),  # it would broadcast
        ({"patient": [1]}, "patient"),
        ({"confounder": [0, 1]}, "confounder"),
    ],
)
def test_bad_arguments_are_refused(kwargs, match):
    finding, ap = by_cells(kwargs.pop("counts", [20] * 4))
    columns = {"target": finding, "confounder": ap, "correlation": 0.95, "patient": np.arange(len(finding))}
    with pytest.raises(ValueError, match=match):
        subsample(**{**columns, **kwargs})
