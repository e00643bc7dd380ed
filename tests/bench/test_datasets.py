import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from causalcxr.bench import MARKERS, ConfoundedDataset, StratifiedImages
from causalcxr.data import SyntheticCXR, read_image


def make(length=100, positives=0.5, *, marker="letter", correlation=0.9, seed=0):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(200, (length, 1, 64, 64), generator=generator, dtype=torch.uint8)
    targets = torch.arange(length) < positives * length
    return ConfoundedDataset(images, targets, marker=marker, correlation=correlation, seed=seed)


@pytest.mark.parametrize(("length", "correlation"), [(1000, 0.02), (1000, 0.95), (4, 0.0), (4, 1.0)])
@pytest.mark.parametrize("positives", [0.5, 0.3])
def test_shares_are_exact(length, correlation, positives):
    dataset = make(length, positives, correlation=correlation)
    positive = dataset.targets[:, 0] == 1
    for chosen, share in ((positive, correlation), (~positive, 1 - correlation)):
        number = int(dataset.strata[chosen].sum())
        assert number == pytest.approx(share * int(chosen.sum()), abs=0.5 + 1e-9)


@pytest.mark.parametrize("marker", MARKERS)
def test_variants_differ_in_presence_alone_and_masks_are_where_the_marker_is(marker):
    dataset = make(60, marker=marker)
    plain = dataset.without_markers()
    assert plain.strata.sum() == 0
    for other in (dataset, dataset.with_correlation(0.5), dataset.with_correlation(0.1)):
        assert torch.equal(other.targets, dataset.targets)
        for i in range(60):
            mask = other.mask(i)
            assert torch.equal((other[i][0] != plain[i][0])[0], mask)
            assert bool(mask.any()) == bool(other.strata[i])
            if other.strata[i] and dataset.strata[i]:
                assert torch.equal(other[i][0], dataset[i][0])


def test_a_weaker_association_changes_no_more_images_than_it_must():
    strata = [make(200, correlation=r).strata for r in (0.95, 0.9, 0.7, 0.5, 0.1)]
    for stronger, weaker, changed in zip(strata, strata[1:], (10, 40, 40, 80), strict=False):
        assert int((stronger != weaker).sum()) == changed


def test_presence_and_looks_go_by_seed_index_and_kind():
    one, same, other, longer = make(seed=3), make(seed=3), make(seed=4), make(140, seed=3)
    assert torch.equal(one.strata, same.strata)
    assert not torch.equal(one.strata, other.strata)
    marked = [i for i in range(100) if one.strata[i] and other.strata[i]]
    for i in marked[:5]:
        assert torch.equal(one[i][0], same[i][0])
        assert not torch.equal(one.mask(i), other.mask(i))
    both = [i for i in range(50) if one.strata[i] and longer.strata[i]]
    assert all(torch.equal(one.mask(i), longer.mask(i)) for i in both[:5])
    assert len({one.mask(i).nonzero().sum().item() for i in marked[:10]}) > 5  # positions vary between images


def test_seeds_of_images_and_of_markers_may_be_equal():
    films = SyntheticCXR(2000, image_size=64, labels=["Atelectasis"], prevalence=0.5, seed=7)
    dataset = ConfoundedDataset(films, torch.arange(2000) % 2, marker="tube", correlation=0.5, seed=7)
    agreeing = dataset.strata == torch.arange(2000) % 2
    for column in (films.targets[:, 0], films.view == "AP"):
        assert abs(np.corrcoef(column, agreeing)[0, 1]) < 0.07


def test_images_of_the_size_that_is_asked_for():
    images = torch.rand(20, 1, 64, 96)
    dataset = ConfoundedDataset(images, [0, 1] * 10, marker="letter", correlation=0.9, image_size=(32, 40))
    for data in (dataset, dataset.without_markers()):
        assert data[1][0].shape == (1, 32, 40)
        assert data.mask(1).shape == (32, 40)
    assert torch.equal(dataset.without_markers()[0][0], read_image(images[0], size=(32, 40)))


class Column(dict):
    """A data frame column, indexed by row name and not by position."""

    def to_numpy(self):
        return np.array([*self.values()])


def test_a_tensor_a_dataset_a_list_of_items_and_a_column_of_paths_give_the_same_images(tmp_path):
    images = torch.randint(256, (20, 1, 64, 64), dtype=torch.uint8)
    floats, targets = images.float() / 255, [0, 1] * 10
    paths = Column({f"row {i}": tmp_path / f"{i}.png" for i in range(20)})
    for path, image in zip(paths.values(), images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    kinds = [images, TensorDataset(floats), [[image, 0] for image in floats], paths]
    first, *others = (ConfoundedDataset(kind, targets, marker="electrode", correlation=0.9) for kind in kinds)
    for i in range(20):
        image, target = first[i]
        assert (image.dtype, target.tolist()) == (torch.float32, [targets[i]])
        assert all(torch.equal(other[i][0], image) for other in others)


@pytest.mark.parametrize("correlation", [0.9, None])
def test_items_by_index_are_the_callers_own(correlation):
    floats = torch.rand(20, 1, 64, 64)
    dataset = ConfoundedDataset(floats, [0, 1] * 10, marker="letter", correlation=correlation)
    before = floats.clone()
    assert len(list(dataset)) == 20
    for last in (-1, np.int64(19)):
        image, target = dataset[last]
        assert torch.equal(image, dataset[19][0])
        assert torch.equal(dataset.mask(last), dataset.mask(19))
        image.fill_(7)
        target.fill_(7)
    assert dataset.targets.max() == 1
    assert torch.equal(floats, before)
    for access in (dataset.__getitem__, dataset.mask):
        with pytest.raises(IndexError):
            access(-21)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"marker": "border"}, "'border'"),
        ({"correlation": 1.2}, "1.2"),
        ({"correlation": 0.98}, "2 of 2"),  # would round to a perfect association
        ({"patient": [1, 2]}, "patient must have one value per image"),
        ({"patient": ["a", float("nan"), None, ""]}, "patient must not have missing values, got 3 of 4"),
        ({"images": []}, "empty"),
        ({"targets": [0, 1, 1]}, r"\(4,\)"),
        ({"targets": [0, 1, 0, np.nan]}, "nan"),
        ({"targets": np.zeros((4, 2))}, r"\(4, 2\)"),
    ],
)
def test_bad_arguments_are_refused(kwargs, match):
    given = {"images": torch.rand(4, 1, 8, 8), "targets": [0, 1, 0, 1], "marker": "tube", "correlation": None}
    with pytest.raises(ValueError, match=match):
        ConfoundedDataset(**given | kwargs)


def test_any_layout_of_targets():
    assert StratifiedImages(torch.rand(2, 1, 8, 8), np.array([0, 1])[::-1], [0, 1]).targets[:, 0].tolist() == [1, 0]


def test_strings_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match="compare first, as in view == 'AP'"):
        StratifiedImages(torch.rand(2, 1, 8, 8), [0, 1], ["AP", "PA"])
