"""Generated radiographs: which view, markers, findings and patients there are, and what they do to the film."""

import numpy as np
import pytest
import torch

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.synthetic import SyntheticCXR


def make(length=8, **kwargs):
    return SyntheticCXR(length, **{"image_size": 64, **kwargs})


def one_hot(label):
    return [float(name == label) for name in NIH_LABELS]


# View and markers


def test_ap_film_shows_a_wider_heart_and_a_whiter_image():
    dataset = make(20)
    heart = NIH_LABELS.index("Cardiomegaly")
    width, grey = {}, {}
    for view in ("AP", "PA"):
        films = [dataset.sample(i, target=one_hot("Cardiomegaly"), view=view, markers=[]) for i in range(20)]
        width[view] = np.array([film.masks[heart].any(0).sum() for film in films])
        grey[view] = np.mean([film.image.mean() for film in films])
    assert (width["AP"] > width["PA"]).all()
    assert grey["AP"] > grey["PA"]


@pytest.mark.parametrize("marker", SyntheticCXR.marker_names)
def test_each_marker_changes_the_film_and_letters_stay_outside_the_lungs(marker):
    dataset = make(20, image_size=128)
    lungs = NIH_LABELS.index("Emphysema")
    for i in range(20):
        plain = dataset.sample(i, target=one_hot("Emphysema"), markers=[])
        marked = dataset.sample(i, target=one_hot("Emphysema"), markers=[marker])
        assert marked.markers == (marker,)
        changed = (marked.image - plain.image)[0].abs() > 0
        assert 0 < changed.float().mean() < 0.2
        if marker in ("letter", "portable", "border"):
            assert not (changed & plain.masks[lungs]).any()


def test_markers_follow_the_view_unless_a_label_is_named():
    dataset = make(4000)
    portable = dataset.markers[:, dataset.marker_names.index("portable")]
    assert not portable[dataset.view == "PA"].any()
    assert abs(portable[dataset.view == "AP"].mean() - 0.6) < 0.05
    assert abs((dataset.view == "AP").mean() - 0.4) < 0.03


@pytest.mark.parametrize("strength", [0.9, -0.9, 0.0])
def test_marker_correlation(strength):
    dataset = make(4000, labels=["Mass", "Edema"], marker_label="Edema", marker_correlation=strength)
    portable = dataset.markers[:, dataset.marker_names.index("portable")]
    edema = dataset.targets[:, 1].numpy() == 1
    assert abs(portable[edema].mean() - (1 + strength) / 2) < 0.05
    assert abs(portable[~edema].mean() - (1 - strength) / 2) < 0.05
    assert torch.equal(dataset.targets, make(4000, labels=["Mass", "Edema"]).targets)


# Sampling


@pytest.mark.parametrize(
    ("prevalence", "expected"),
    [(0.3, [0.3, 0.3, 0.3]), ([0.1, 0.5, 1.0], [0.1, 0.5, 1.0]), ({"Nodule": 0.6}, [0.0, 0.6, 0.0]), (0, [0, 0, 0])],
)
def test_prevalence(prevalence, expected):
    targets = make(5000, labels=["Mass", "Nodule", "Hernia"], prevalence=prevalence).targets
    assert targets.shape == (5000, 3)
    np.testing.assert_allclose(targets.mean(0), expected, atol=0.03)  # four standard errors


def test_findings_are_independent_of_each_other_and_of_the_view():
    dataset = make(8000, prevalence=0.5)
    columns = torch.cat([dataset.targets, torch.from_numpy(dataset.view == "AP").float()[:, None]], 1)
    correlation = torch.corrcoef(columns.T) - torch.eye(15)
    assert correlation.abs().max() < 0.05


def test_patients_have_consecutive_films_of_one_anatomy():
    dataset = make(9, images_per_patient=3, prevalence=0.0)
    assert dataset.patient.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for name in ("sex", "age"):
        assert len(set(getattr(dataset, name)[:3])) == 1
    # Ribs, heart and vessels are the patient's own, the place on the film is not: compare at the best of some shifts.
    films = [dataset.sample(i, view="PA", markers=[]).image[0] for i in range(9)]
    crops = [film[s : s + 56, t : t + 56].flatten() for film in films for s in range(0, 9, 2) for t in range(0, 9, 2)]
    similarity = torch.corrcoef(torch.stack(crops)).view(9, 25, 9, 25).amax((1, 3))
    same = torch.from_numpy(dataset.patient[:, None] == dataset.patient) & ~torch.eye(9, dtype=torch.bool)
    assert (
        similarity[same].mean()
        > similarity[torch.from_numpy(dataset.patient[:, None] != dataset.patient)].mean() + 0.005
    )
    assert similarity[same].max() < 0.9999  # position, exposure and noise differ
