import numpy as np
import pytest

from causalcxr.bench import subsample

CORRELATIONS = [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0]
CELLS = [(y, c) for y in (0, 1) for c in (0, 1)]


def records(length=2000, seed=0):
    """Finding, view and age, where those with AP films are younger and those with the finding older."""
    rng = np.random.default_rng(seed)
    finding, ap = rng.random(length) < 0.3, rng.random(length) < 0.4
    age = np.clip(rng.normal(50 - 12 * ap + 8 * finding, 14), 0, 95).round()
    return finding, ap, age, rng.integers(length // 4, size=length)


def cell(finding, ap, y, c):
    return (finding == y) & (ap == c)


def by_cells(counts):
    """Finding and confounder with the given number of images in each of CELLS."""
    return np.repeat(np.array(CELLS), counts, axis=0).T


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("aged", [False, True])
def test_shares_are_exact_and_numbers_the_same_for_every_correlation(correlation, aged):
    finding, ap, age, patient = records()
    chosen = subsample(finding, ap, correlation, patient=patient, age=age if aged else None)
    assert (np.diff(chosen) > 0).all()
    y, c = finding[chosen], ap[chosen]
    assert c[y].sum() == pytest.approx(correlation * y.sum(), abs=0.5)
    assert c[~y].sum() == pytest.approx((1 - correlation) * y.sum(), abs=0.5)
    assert y.sum() == (~y).sum()
    if aged:
        overlap = sum(
            min(((age // 10 == band) & cell(finding, ap, *each)).sum() for each in CELLS) for band in range(10)
        )
        assert len(chosen) == 2 * overlap
    else:
        assert len(chosen) == 2 * min(cell(finding, ap, *each).sum() for each in CELLS)


def test_age_tells_neither_finding_nor_view():
    finding, ap, age, patient = records(6000)

    def ages(**kwargs):
        chosen = subsample(finding, ap, 0.7, patient=patient, n=800, **kwargs)
        return [age[chosen][cell(finding[chosen], ap[chosen], *each)] for each in CELLS]

    unmatched = [each.mean() for each in ages()]
    assert max(unmatched) - min(unmatched) > 15
    matched = ages(age=age)
    assert np.ptp([each.mean() for each in matched]) < 2.5
    shares = np.array([np.bincount((each // 10).astype(int), minlength=10) / len(each) for each in matched])
    assert np.ptp(shares, axis=0).max() < 0.01  # but for rounding to whole images


def test_patients_give_one_image_each_before_any_gives_a_second():
    finding, ap = by_cells([100] * 4)
    patient = np.tile(np.r_[np.zeros(60, int), np.arange(1, 41)], 4)  # one patient has 60 of the 100 images of a cell
    for n, least in ((160, 40), (168, 41)):  # 40 or 42 in each cell, of 41 patients
        chosen = subsample(finding, ap, 0.5, patient=patient, n=n)
        for each in CELLS:
            people = patient[chosen][cell(finding[chosen], ap[chosen], *each)]
            assert len(set(people)) == least
            assert (np.bincount(people) <= 2).all()
    everyone = subsample(finding, ap, 0.5, patient=patient.astype(str), n=400)
    assert everyone.tolist() == list(range(400))


def test_one_seed_chooses_the_same_and_settings_share_images():
    finding, ap, age, patient = records()

    def choose(correlation, seed):
        return set(subsample(finding, ap, correlation, patient=patient, age=age, n=200, seed=seed).tolist())

    assert choose(0.7, 1) == choose(0.7, 1)
    assert len(choose(0.7, 1) & choose(0.7, 2)) < 150
    agreeing = {i for i in choose(0.7, 1) if finding[i] == ap[i]}
    assert len(agreeing) == 140
    assert len(agreeing & choose(0.9, 1)) > 130


def test_columns_and_their_types():
    finding, ap, _, patient = records(400)
    expected = subsample(finding, ap, 0.7, patient=patient, n=60)
    given = subsample(finding[:, None].astype(np.float32), ap.astype(int).tolist(), 0.7, patient=list(patient), n=60)
    assert expected.dtype == np.int64
    assert (given == expected).all()


def test_one_correlation_may_have_more_images_than_all_of_them():
    finding, ap = by_cells([90, 10, 10, 90])
    patient = np.arange(200)
    assert len(subsample(finding, ap, 0.9, patient=patient)) == 20
    assert len(subsample(finding, ap, 0.9, patient=patient, n=200)) == 200
    with pytest.raises(ValueError, match=r"n=202 .* needs 91 images .* are 90; n=20 works"):
        subsample(finding, ap, 0.9, patient=patient, n=202)


@pytest.mark.parametrize("aged", [False, True])
def test_the_number_in_the_message_works(aged):
    finding, ap, age, patient = records(1000)
    options = {"patient": patient, "age": age if aged else None}
    with pytest.raises(ValueError, match=r" aged \d+ to \d+, but" if aged else r"confounder=[01], but") as caught:
        subsample(finding, ap, 0.9, n=990, **options)
    number = int(str(caught.value).split("n=")[-1].split()[0])
    for correlation in (0.05, 0.5, 0.9):
        assert len(subsample(finding, ap, correlation, n=number, **options)) == number


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"correlation": -0.1}, "correlation"),
        ({"n": 21}, "n must be even"),
        ({"n": 0}, "n must be even"),
        ({"n": 10}, "5 of 5; at least 11"),
        ({"counts": [40, 3, 20, 30]}, "target=0 with confounder=1 .* 3 images"),
        ({"counts": [40, 0, 20, 30]}, "all four combinations .* must occur, .* 0 images"),
        ({"age": np.repeat([10, 20, 30, 40], 20)}, "in one age band"),
        ({"age": np.full(80, np.nan)}, "age must be years"),
        ({"patient": [1]}, "patient"),
        ({"confounder": [0, 1]}, "confounder"),
    ],
)
def test_bad_arguments_are_refused(kwargs, match):
    finding, ap = by_cells(kwargs.pop("counts", [20] * 4))
    columns = {"target": finding, "confounder": ap, "correlation": 0.95, "patient": np.arange(len(finding))}
    with pytest.raises(ValueError, match=match):
        subsample(**{**columns, **kwargs})
