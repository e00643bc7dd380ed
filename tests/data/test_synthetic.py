"""Generated radiographs: items, determinism, planted findings and their masks, errors."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.synthetic import SyntheticCXR


def make(length=8, **kwargs):
    return SyntheticCXR(length, **{"image_size": 64, **kwargs})


def one_hot(label):
    return [float(name == label) for name in NIH_LABELS]


# Items


@pytest.mark.parametrize("image_size", [64, 65, (64, 96), (128, 64), (64, 256)])
def test_item_shape_dtype_and_range(image_size):
    dataset = make(image_size=image_size)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    for image, target in (dataset[i] for i in range(len(dataset))):
        assert image.shape == (1, height, width)
        assert image.dtype == target.dtype == torch.float32
        assert 0 <= image.min() < 0.1  # air beside the patient
        assert 0.7 < image.max() <= 1
        assert target.shape == (14,)


def test_largest_size():
    image, _ = make(1, image_size=(1024, 512), prevalence=1.0)[0]
    assert image.shape == (1, 1024, 512)
    assert image.isfinite().all()


def test_one_film_at_two_sizes_shows_the_same_patient():
    coarse, fine = (make(image_size=size, prevalence=0.3).sample(3, markers=[]).image for size in (64, 256))
    reduced = torch.nn.functional.avg_pool2d(fine, 4)
    assert np.corrcoef(coarse.flatten(), reduced.flatten())[0, 1] > 0.98


def test_lungs_are_darker_than_heart_and_abdomen_and_the_heart_lies_on_the_image_right():
    # The mean over many patients: rows and columns of the film in cm from its centre.
    dataset = make(64, labels=["Mass"], prevalence=0.0)
    mean = torch.stack([dataset.sample(i, markers=[], view="PA").image[0] for i in range(64)]).mean(0)

    def grey(x, y):
        return mean[round((y + 18) * 64 / 36), round((x + 18) * 64 / 36)].item()

    assert max(grey(-8, -4), grey(8, -4)) < min(grey(0, 2), grey(0, 12), grey(-8, 12)) - 0.2
    assert grey(5, 3) > grey(-5, 3) + 0.2


def test_transform_is_applied_to_the_image_alone():
    plain, doubled = make(), make(transform=lambda image: torch.cat([image, image]))
    assert torch.equal(doubled[0][0], torch.cat([plain[0][0]] * 2))
    assert torch.equal(doubled[0][1], plain[0][1])
    assert torch.equal(doubled.sample(0).image, plain[0][0])


def test_changing_an_item_leaves_the_dataset_as_it_was():
    dataset = make(prevalence=0.5)
    image, target = dataset[0]
    image.fill_(7)
    target.fill_(7)
    dataset.sample(0).target.fill_(7)
    assert dataset.targets.max() == 1
    assert dataset[0][0].max() <= 1


# Determinism


def test_item_depends_on_seed_and_index_alone():
    short, long = make(5, seed=3), make(400, seed=3)
    long[17]  # order of access
    for i in (4, 0, 2):
        for a, b in zip(short[i], long[i], strict=True):
            assert torch.equal(a, b)
    for name in ("targets", "view", "markers", "patient", "sex", "age"):
        assert (np.asarray(getattr(short, name)) == np.asarray(getattr(long, name))[:5]).all(), name


def test_negative_index_and_numpy_index():
    dataset = make(5)
    assert torch.equal(dataset[-1][0], dataset[4][0])
    assert torch.equal(dataset[np.int64(2)][0], dataset[2][0])


def test_copy_in_another_process_draws_the_same():
    dataset = make(6)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert torch.equal(copy[5][0], dataset[5][0])
    loader = DataLoader(dataset, batch_size=3, num_workers=1)
    images = torch.cat([images for images, _ in loader])
    assert torch.equal(images, torch.stack([dataset[i][0] for i in range(6)]))


def test_seeds_and_items_differ():
    images = [make(4, seed=seed)[i][0] for seed in (0, 1) for i in range(4)]
    for a in range(8):
        for b in range(a):
            assert (images[a] - images[b]).abs().mean() > 0.02
    assert not torch.equal(make(50, seed=0).targets, make(50, seed=1).targets)


def test_large_seed_is_not_a_pair_of_small_ones():
    assert not torch.equal(make(1, seed=2**32)[0][0], make(1, seed=0)[0][0])


def test_selection_of_labels_leaves_findings_in_place():
    chosen = ("Hernia", "Effusion")
    few, all_of_them = make(30, labels=chosen, prevalence=0.5), make(30, prevalence=0.5)
    columns = [NIH_LABELS.index(name) for name in chosen]
    assert few.label_names == chosen
    assert torch.equal(few.targets, all_of_them.targets[:, columns])
    item = int(few.targets.all(1).nonzero()[0])
    assert torch.equal(few.masks(item), all_of_them.masks(item)[columns])


# Findings


@pytest.mark.parametrize("label", NIH_LABELS)
@pytest.mark.parametrize("image_size", [64, (96, 128)])
def test_finding_changes_the_film_inside_its_mask_only(label, image_size):
    k = NIH_LABELS.index(label)
    dataset = make(12, image_size=image_size, prevalence=0.1)
    for i in range(12):
        target = dataset.targets[i].clone()
        target[k] = 0
        without = dataset.sample(i, target=target)
        target[k] = 1
        with_it = dataset.sample(i, target=target)
        change = (with_it.image - without.image)[0].abs()
        mask = with_it.masks[k]
        assert change[~mask].max() == 0
        assert change[mask].mean() > 0.01
        assert not without.masks[k].any()
        others = torch.arange(14) != k
        assert torch.equal(with_it.masks[others], without.masks[others])


def mean_change(label, region=None):
    """Mean signed change of the image inside the mask, over some PA films."""
    dataset = make(10)
    changes = []
    for i in range(10):
        healthy, ill = (dataset.sample(i, target=t, view="PA", markers=[]) for t in (one_hot(""), one_hot(label)))
        mask = ill.masks[NIH_LABELS.index(label)]
        changes.append((ill.image - healthy.image)[0][mask].mean().item())
    return float(np.mean(changes))


@pytest.mark.parametrize("label", NIH_LABELS)
def test_air_darkens_and_fluid_or_tissue_whitens(label):
    if label in ("Emphysema", "Pneumothorax", "Hernia"):
        assert mean_change(label) < -0.01
    else:
        assert mean_change(label) > 0.01


def test_nodule_is_below_and_mass_above_three_centimetres():
    dataset = make(40, image_size=128, labels=["Nodule", "Mass"], prevalence=1.0)
    pixel = 36 / 128
    for i in range(40):
        nodule, mass = dataset.boxes(i)
        assert 1.0 < max(nodule.w, nodule.h) * pixel < 3.6  # the mask has a soft edge of one pixel on either side
        assert max(mass.w, mass.h) * pixel > 3.0


def test_findings_are_where_they_belong():
    dataset = make(20, prevalence=1.0)
    centre = np.zeros((14, 20, 2))
    for i in range(20):
        for k, mask in enumerate(dataset.masks(i)):
            centre[k, i] = mask.nonzero().float().mean(0).numpy() / 64 - 0.5
    row, column = (dict(zip(NIH_LABELS, centre[..., axis], strict=True)) for axis in (0, 1))
    assert (row["Effusion"] > 0).all()  # at the base
    assert (np.abs(column["Effusion"]) > 0.15).all()  # at the side
    assert (row["Pneumothorax"] < -0.1).all()  # at the apex
    assert (np.abs(column["Pleural_Thickening"]) > 0.2).all()  # at the wall
    assert (np.abs(column["Hernia"]) < 0.15).all()  # behind the heart
    assert (np.abs(column["Edema"]) < 0.12).all()  # on both sides
    assert (column["Cardiomegaly"] > -0.02).all()
    for label in ("Effusion", "Pneumothorax", "Mass", "Nodule", "Atelectasis", "Consolidation", "Pneumonia"):
        assert (column[label] < 0).any(), label
        assert (column[label] > 0).any(), label


def test_masks_and_boxes_agree_with_the_targets_and_the_sample():
    dataset = make(6, image_size=(64, 96), prevalence=0.4)
    for i in range(6):
        masks, boxes, sample = dataset.masks(i), dataset.boxes(i), dataset.sample(i)
        assert masks.shape == (14, 64, 96)
        assert masks.dtype == torch.bool
        assert torch.equal(masks.flatten(1).any(1), dataset.targets[i].bool())
        assert torch.equal(masks, sample.masks)
        assert torch.equal(sample.image, dataset[i][0])
        assert torch.equal(sample.target, dataset.targets[i])
        assert [box.label for box in boxes] == [n for n, t in zip(NIH_LABELS, sample.target, strict=True) if t]
        for box in boxes:
            mask = masks[NIH_LABELS.index(box.label)]
            x, y, w, h = (int(value) for value in box[1:])
            inside = mask[y : y + h, x : x + w]
            assert inside.sum() == mask.sum()
            assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


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


# Errors


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"image_size": 63}, "image_size must be from 64 to 1024 pixels a side, got 63"),
        ({"image_size": (64, 1025)}, "from 64 to 1024"),
        ({"image_size": 64.0}, "positive integer"),
        ({"labels": ["Nodul"]}, "unknown label 'Nodul' .closest: 'Nodule'"),
        ({"prevalence": float("nan")}, r"prevalence must be in \[0, 1\]"),
        ({"prevalence": [0.1, 0.2]}, "one for each of the 14 labels"),
        ({"labels": ["Mass"], "prevalence": {"Nodule": 0.1}}, "unknown label 'Nodule'"),
        ({"marker_correlation": 0.5}, "marker_correlation needs marker_label"),
        ({"marker_label": "Mass", "marker_correlation": 1.5}, r"must be in \[-1, 1\], got 1\.5"),
        ({"labels": ["Mass"], "marker_label": "Edema"}, "unknown label 'Edema'.*valid labels: Mass"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        SyntheticCXR(**{"length": 2, "image_size": 64, **kwargs})


@pytest.mark.parametrize("index", [5, -6])
@pytest.mark.parametrize("method", ["__getitem__", "sample", "masks", "boxes"])
def test_index_out_of_range(method, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 5 items"):
        getattr(make(5), method)(index)


def test_iteration_ends():
    assert len(list(make(3))) == 3


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"target": [1.0, 0.0, 0.0]}, r"target must be 2 zeros and ones, .* got \[1\.0, 0\.0, 0\.0\]"),
        ({"target": [0.5, 0.0]}, "target must be 2 zeros and ones"),
        ({"target": [float("nan"), 0.0]}, "target must be 2 zeros and ones"),
        ({"view": "LL"}, "view must be 'AP' or 'PA', got 'LL'"),
        ({"markers": ["lettre"]}, "unknown marker 'lettre'; choose from: letter, portable"),
    ],
)
def test_bad_interventions(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(2, labels=["Mass", "Edema"]).sample(0, **kwargs)
