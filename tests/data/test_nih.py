import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih import Box, NIHChestXray14

NAMES = ["00000001_000.png", "00000002_000.png", "00000003_000.png", "00000003_001.png"]


@pytest.fixture(params=["one folder", "folders"])
def release(request, tmp_path, write_release):
    """A release of four images, image i filled with the grey value 10 i; images 1 to 3 are in train_val."""
    root = write_release(tmp_path / "nih", train_val=(1, 2, 3), test=(0,))
    for i, name in enumerate(NAMES):
        folder = (
            root / "images" if request.param == "one folder" else root / f"images_{1 + 11 * (i % 2):03d}" / "images"
        )
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6), 10 * i, dtype=np.uint8)).save(folder / name)
    return root


def find(root, name):
    return next(root.rglob(name))


def test_items_are_images_and_targets_aligned_with_the_columns_of_the_tables(release):
    dataset = NIHChestXray14(release, "all")
    for i, (image, target) in enumerate(dataset):
        assert torch.equal(image, torch.full((1, 8, 6), 10 * i / 255))
        assert torch.equal(target, dataset.targets[i])
        assert dataset.image_path(i) == str(find(release, dataset.names[i]))
    assert dataset.names == NAMES
    assert dataset.label_names == NIH_LABELS
    assert (dataset.targets.shape, dataset.targets.dtype) == ((4, 14), torch.float32)
    assert dataset.patient.tolist() == [1, 2, 3, 3]
    assert (len(dataset), len(dataset.age), dataset.skipped) == (4, 4, [])
    assert torch.equal(dataset[-1][0], dataset[3][0])
    with pytest.raises(IndexError):
        dataset[4]
    dataset[2][1].fill_(5)
    assert dataset.targets.max() == 1  # the labels are left alone


def test_splits_and_labels_select_images_and_columns(release):
    assert NIHChestXray14(release, "test").names == NAMES[:1]
    train, val = (NIHChestXray14(release, split, val_fraction=0.5, seed=3) for split in ("train", "val"))
    assert sorted(train.names + val.names) == NAMES[1:]
    assert not set(train.patient) & set(val.patient)
    dataset = NIHChestXray14(release, "all", labels=("Hernia", "Cardiomegaly"))
    assert dataset.label_names == ("Hernia", "Cardiomegaly")
    assert [target.tolist() for _, target in dataset] == [[0, 1], [0, 0], [1, 0], [1, 0]]


def test_size_and_transform(release):
    dataset = NIHChestXray14(release, "all", image_size=(4, 5), transform=lambda image: image.expand(3, -1, -1) * 2)
    assert dataset[1][0].shape == (3, 4, 5)
    torch.testing.assert_close(dataset[1][0].max(), torch.tensor(20 / 255))


def test_2017_labels_and_boxes_reach_the_dataset(release, write_release):
    (release / "Data_Entry_2017_v2020.csv").unlink()
    write_release(release, version="2017", train_val=(1, 2, 3), test=(0,))
    (release / "BBox_List_2017.csv").write_text("h,,,,,\n00000003_001.png,Infiltrate,1,2,3,4\n")
    dataset = NIHChestXray14(release, "train_val")
    assert dataset.label_file == "Data_Entry_2017.csv"
    assert dataset.age.tolist() == pytest.approx([80, 1.5, 73 / 365.25])
    assert dataset.boxes == {"00000003_001.png": [Box("Infiltration", 1, 2, 3, 4)]}


def test_missing_images_are_reported_on_construction_or_left_out(release):
    for name in NAMES[1:3]:
        find(release, name).unlink()
    message = r"2 of 4 images of split 'all' are not in .*00000002_000\.png, 00000003_000\.png"
    with pytest.raises(FileNotFoundError, match=message + r".*bad_images='skip'"):
        NIHChestXray14(release, "all")
    assert len(NIHChestXray14(release, "test")) == 1  # the other split is whole
    with pytest.warns(UserWarning, match=message) as seen:
        dataset = NIHChestXray14(release, "all", bad_images="skip")
    assert [warning.filename for warning in seen] == [__file__]
    assert dataset.skipped == NAMES[1:3]
    assert dataset.names == [NAMES[0], NAMES[3]]
    assert dataset.patient.tolist() == [1, 3]
    assert [round(image[0, 0, 0].item() * 255) for image, _ in dataset] == [0, 30]
    assert dataset[1][1][NIH_LABELS.index("Hernia")] == 1


def test_skipping_images_moves_no_patient_between_train_and_val(release):
    before = {split: set(NIHChestXray14(release, split, val_fraction=0.5).names) for split in ("train", "val")}
    find(release, NAMES[2]).unlink()
    with pytest.warns(UserWarning, match="left out"):
        after = {
            split: set(NIHChestXray14(release, split, val_fraction=0.5, bad_images="skip").names) for split in before
        }
    assert after == {split: names - {NAMES[2]} for split, names in before.items()}


def test_no_image_at_all_and_unknown_options_are_errors(release):
    for name in NAMES:
        find(release, name).unlink()
    with pytest.raises(FileNotFoundError, match=r"4 of 4 images .*read_nih_tables"):
        NIHChestXray14(release, "all", bad_images="skip")
    with pytest.raises(ValueError, match="'ignore'"):
        NIHChestXray14(release, bad_images="ignore")


def test_a_damaged_image_is_refused_by_name_on_reading_and_never_left_out(release):
    path = find(release, NAMES[2])
    path.write_bytes(path.read_bytes()[:-20])
    dataset = NIHChestXray14(release, "all", bad_images="skip")
    assert len(dataset) == 4
    with pytest.raises(ValueError, match=rf"cannot read image .*{NAMES[2]}"):
        dataset[2]


def test_dataset_survives_pickling_and_batching(release):
    dataset = pickle.loads(pickle.dumps(NIHChestXray14(release, "all", image_size=4)))  # noqa: S301
    images, targets = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert images.shape == (4, 1, 4, 4)
    assert torch.equal(targets, dataset.targets)


def test_full_size_real_images_have_one_channel(shared_data):
    dataset = NIHChestXray14(shared_data / "nih-1024", "all", image_size=64)
    assert len(dataset) == 24
    assert all(image.shape == (1, 64, 64) and image.std() > 0.05 for image, _ in dataset)
    for name, boxes in dataset.boxes.items():
        assert name in dataset.names
        assert all(box.x >= 0 and box.x + box.w <= 1024 and box.y + box.h <= 1024 for box in boxes)
