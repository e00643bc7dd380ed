"""Synthetic radiographs: items, determinism, planted findings and their masks, errors."""

import itertools

import numpy as np
import pytest
import torch

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.synthetic import SyntheticCXR


def make(length=8, **kwargs):
    return SyntheticCXR(length, **{"image_size": 64, **kwargs})


def one_hot(label):
    return [float(name == label) for name in NIH_LABELS]


@pytest.mark.parametrize("image_size", [65, (64, 96), (1024, 512)])
def test_items_are_films_in_range_of_any_size(image_size):
    dataset = make(2, image_size=image_size, prevalence=0.5)
    for image, target in (dataset[0], dataset[1]):
        assert image.shape[1:] == (image_size if isinstance(image_size, tuple) else (image_size, image_size))
        assert image.dtype == target.dtype == torch.float32
        assert 0 <= image.min() < 0.1  # air next to the patient
        assert 0.7 < image.max() <= 1


def test_one_film_at_two_sizes_shows_the_same_patient():
    coarse, fine = (make(image_size=size, prevalence=0.3).sample(3, markers=[]).image for size in (64, 256))
    reduced = torch.nn.functional.avg_pool2d(fine, 4)
    assert np.corrcoef(coarse.flatten(), reduced.flatten())[0, 1] > 0.98


def test_items_are_samples_of_their_own_and_only_their_image_is_transformed():
    dataset = make(prevalence=0.5, transform=lambda image: torch.cat([image, image]))
    sample = dataset.sample(0)
    for _ in range(2):  # changing an item does not change the dataset
        image, target = dataset[0]
        assert torch.equal(image, torch.cat([sample.image, sample.image]))
        assert torch.equal(target, sample.target)
        image.fill_(7)
        target.fill_(7)


def test_an_item_depends_on_seed_and_index_alone():
    short, long = make(5, seed=3), make(400, seed=3)
    long[17]  # order of access
    for i in (4, 0, 2, -1, np.int64(3)):
        for a, b in zip(short[i], long[i % 5], strict=True):
            assert torch.equal(a, b)
    with pytest.raises(IndexError):
        short[5]
    for name in ("targets", "view", "markers", "patient", "sex", "age"):
        assert (np.asarray(getattr(short, name)) == np.asarray(getattr(long, name))[:5]).all(), name


def test_the_pictures_are_those_of_the_docs():
    # Images and results in the docs were made with these films, and other films would not reproduce them.
    films, weights = make(14), torch.from_numpy(np.random.default_rng(0).random((64, 64)))  # so that location matters
    films = [films.sample(k, target=one_hot(label)).image for k, label in enumerate(NIH_LABELS)]
    expected = [0.27477, 0.324, 0.2362, 0.25322, 0.26514, 0.29396, 0.26446]
    expected += [0.25787, 0.25508, 0.26373, 0.25265, 0.26597, 0.31124, 0.23795]
    assert [(film * weights).mean().item() for film in films] == pytest.approx(expected, abs=1e-5)


def test_seeds_and_items_differ():
    images = [make(2, seed=seed)[i][0] for seed in (0, 1, 2**32) for i in range(2)]
    assert all((a - b).abs().mean() > 0.02 for a, b in itertools.combinations(images, 2))
    assert not torch.equal(make(50, seed=0).targets, make(50, seed=1).targets)


def test_selection_of_labels_leaves_findings_in_place():
    chosen = ("Hernia", "Effusion")
    few, all_of_them = make(30, labels=chosen, prevalence=0.5), make(30, prevalence=0.5)
    columns = [NIH_LABELS.index(name) for name in chosen]
    assert few.label_names == chosen
    assert torch.equal(few.targets, all_of_them.targets[:, columns])
    item = int(few.targets.all(1).nonzero()[0])
    assert torch.equal(few.sample(item).masks, all_of_them.sample(item).masks[columns])


@pytest.mark.parametrize("label", NIH_LABELS)
def test_a_finding_changes_the_film_inside_its_mask_only_darker_by_air_and_whiter_by_tissue(label):
    k, signed = NIH_LABELS.index(label), []
    dataset = make(10, image_size=(96, 128), prevalence=0.1)
    for i in range(10):
        target = dataset.targets[i].clone()
        target[k] = 0
        without = dataset.sample(i, target=target)
        target[k] = 1
        with_it = dataset.sample(i, target=target)
        change, mask = (with_it.image - without.image)[0], with_it.masks[k]
        assert not change[~mask].any()
        assert change[mask].abs().mean() > 0.01
        signed.append(change[mask].mean().item())
        assert torch.equal(without.masks.flatten(1).any(1), without.target == 1)
        assert torch.equal((with_it.masks ^ without.masks).flatten(1).any(1), with_it.target != without.target)
    assert np.mean(signed) < -0.01 if label in ("Emphysema", "Pneumothorax", "Hernia") else np.mean(signed) > 0.01


def test_findings_are_where_they_belong():
    dataset = make(20, prevalence=1.0)
    masks = torch.stack([dataset.sample(i).masks for i in range(20)])
    sides = torch.stack([masks.any(2).sum(2), masks.any(3).sum(2)]).amax(0) * 36 / 64  # in cm
    assert sides[:, NIH_LABELS.index("Nodule")].max() < 3.6  # the mask has a soft edge, one pixel wide on each side
    assert sides[:, NIH_LABELS.index("Mass")].min() > 3
    centre = torch.stack([mask.nonzero().float().mean(0) for mask in masks.flatten(0, 1)]).view(20, 14, 2) / 64 - 0.5
    row, column = (dict(zip(NIH_LABELS, axis.T.numpy(), strict=True)) for axis in centre.unbind(-1))
    assert (row["Effusion"] > 0).all()  # at the base
    assert (np.abs(column["Effusion"]) > 0.15).all()  # at the side
    assert (row["Pneumothorax"] < -0.1).all()  # at the apex
    assert (np.abs(column["Pleural_Thickening"]) > 0.2).all()  # at the wall
    assert (np.abs(column["Hernia"]) < 0.15).all()  # behind the heart
    assert (np.abs(column["Edema"]) < 0.12).all()  # on both sides
    assert (column["Cardiomegaly"] > -0.02).all()
    for label in ("Effusion", "Pneumothorax", "Mass", "Nodule", "Atelectasis", "Consolidation", "Pneumonia"):
        assert set(np.sign(column[label])) == {-1, 1}, label  # both sides occur


def test_ap_film_shows_a_wider_heart_and_a_whiter_image():
    dataset = make(20)
    heart = NIH_LABELS.index("Cardiomegaly")
    for i in range(20):
        ap, pa = (dataset.sample(i, target=one_hot("Cardiomegaly"), view=view, markers=[]) for view in ("AP", "PA"))
        assert ap.masks[heart].any(0).sum() > pa.masks[heart].any(0).sum()
        assert ap.image.mean() > pa.image.mean()


@pytest.mark.parametrize("marker", SyntheticCXR.marker_names)
def test_each_marker_changes_the_film_outside_the_lungs(marker):
    dataset = make(20, image_size=128)
    lungs = NIH_LABELS.index("Emphysema")
    for i in range(20):
        plain = dataset.sample(i, target=one_hot("Emphysema"), markers=[])
        marked = dataset.sample(i, target=one_hot("Emphysema"), markers=[marker])
        assert marked.markers == (marker,)
        changed = (marked.image - plain.image)[0].abs() > 0
        assert 0 < changed.float().mean() < 0.2
        assert not (changed & plain.masks[lungs]).any()


def test_markers_follow_the_view():
    dataset = make(4000)
    portable = dataset.markers[:, dataset.marker_names.index("portable")]
    assert not portable[dataset.view == "PA"].any()
    assert abs(portable[dataset.view == "AP"].mean() - 0.6) < 0.05
    assert abs((dataset.view == "AP").mean() - 0.4) < 0.03


def test_findings_are_independent_and_as_frequent_as_asked_for():
    dataset = make(8000, prevalence=np.linspace(0.2, 0.8, 14))
    np.testing.assert_allclose(dataset.targets.mean(0), np.linspace(0.2, 0.8, 14), atol=0.03)
    columns = torch.cat([dataset.targets, torch.from_numpy(dataset.view == "AP").float()[:, None]], 1)
    assert (torch.corrcoef(columns.T) - torch.eye(15)).abs().max() < 0.05
    assert [make(9, prevalence=share).targets.mean() for share in (0, 1)] == [0, 1]


def test_patients_have_consecutive_films_of_one_anatomy():
    dataset = make(9, images_per_patient=3, prevalence=0.0)
    assert dataset.patient.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(dataset.sex[:3])) == len(set(dataset.age[:3])) == 1
    # Anatomy is fixed per patient, but not the position on the film: take the best match over some shifts.
    films = [dataset.sample(i, view="PA", markers=[]).image[0] for i in range(9)]
    crops = [film[s : s + 56, t : t + 56].flatten() for film in films for s in range(0, 9, 2) for t in range(0, 9, 2)]
    similarity = torch.corrcoef(torch.stack(crops)).view(9, 25, 9, 25).amax((1, 3))
    one = torch.from_numpy(dataset.patient[:, None] == dataset.patient)
    same = one & ~torch.eye(9, dtype=torch.bool)
    assert similarity[same].mean() > similarity[~one].mean() + 0.005
    assert similarity[same].max() < 0.9999  # position, exposure and noise differ


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"length": 0}, "length"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"image_size": 63}, "64"),
        ({"image_size": (64, 1025)}, "1024"),
        ({"prevalence": float("nan")}, "prevalence"),
        ({"prevalence": [0.1, 0.2]}, "prevalence"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        SyntheticCXR(**{"length": 2, "image_size": 64, **kwargs})


@pytest.mark.parametrize(
    "given", [{"target": [1.0, 0.0, 0.0]}, {"target": [0.5, 0.0]}, {"view": "LL"}, {"markers": ["lettre"]}]
)
def test_bad_interventions(given):
    with pytest.raises(ValueError, match=r"must (be|have) one"):
        make(2, labels=["Mass", "Edema"]).sample(0, **given)
