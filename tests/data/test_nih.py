import numpy as np
import pytest
import torch
from PIL import Image

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih import Box, NIHChestXray14
from nih_release import film_names, write_release

NAMES = film_names(1, 2)
FINDINGS = [["Cardiomegaly", "Emphysema"], [], ["Hernia"], ["Hernia", "Infiltration"]]


@pytest.fixture
def release(tmp_path):
    """Four images of two patients, in two folders. Image i has grey value 10 i. The first three are in train_val."""
    pictures = [np.full((8, 6), 10 * i, dtype=np.uint8) for i in range(4)]
    boxes = [(NAMES[3], "Infiltrate", 1, 2, 3, 4)]
    root = write_release(tmp_path / "nih", NAMES, 3, findings=FINDINGS, boxes=boxes, pictures=pictures)
    folder = root / "images_012" / "images"
    folder.mkdir(parents=True)
    for name in NAMES[::2]:
        (root / "images" / name).rename(folder / name)
    return root


def find(root, name):
    return next(root.rglob(name))


def test_items_are_images_and_targets_aligned_with_the_columns_of_the_tables(release):
    dataset = NIHChestXray14(release, "all")
    for i, (image, target) in enumerate(dataset):
        assert torch.equal(image, torch.full((1, 8, 6), 10 * i / 255))
        assert [NIH_LABELS[k] for k in target.nonzero()[:, 0]] == sorted(FINDINGS[i], key=NIH_LABELS.index)
        assert torch.equal(target, dataset.targets[i])
        assert dataset.paths[i] == str(find(release, dataset.names[i]))
    assert (dataset.names, dataset.label_names, dataset.skipped) == (NAMES, NIH_LABELS, [])
    assert dataset.patient.tolist() == [0, 0, 1, 1]
    assert dataset.boxes == {NAMES[3]: [Box("Infiltration", 1, 2, 3, 4)]}
    assert dataset.label_file == "Data_Entry_2017_v2020.csv"
    assert torch.equal(dataset[-1][0], dataset[3][0])
    dataset[2][1].fill_(5)
    assert dataset.targets.max() == 1  # the dataset's targets are unchanged


def test_options_select_images_and_columns_and_change_the_image(release):
    assert NIHChestXray14(release, "test").names == NAMES[3:]
    train, val = (NIHChestXray14(release, split, val_fraction=0.5, seed=3) for split in ("train", "val"))
    assert sorted(train.names + val.names) == NAMES[:3]
    assert not set(train.patient) & set(val.patient)
    assert len({tuple(NIHChestXray14(release, "val", val_fraction=0.5, seed=seed).names) for seed in range(8)}) == 2
    options = {"image_size": (4, 5), "transform": lambda image: image.expand(3, -1, -1) * 2}
    dataset = NIHChestXray14(release, "all", labels=("Hernia", "Cardiomegaly"), **options)
    assert dataset.label_names == ("Hernia", "Cardiomegaly")
    assert [target.tolist() for _, target in dataset] == [[0, 1], [0, 0], [1, 0], [1, 0]]
    torch.testing.assert_close(dataset[1][0], torch.full((3, 4, 5), 20 / 255))


def test_missing_images_are_reported_on_construction_or_left_out(release):
    for name in NAMES[1:3]:
        find(release, name).unlink()
    message = rf"2 of 4 images of split 'all' are not in .*{NAMES[1]}, {NAMES[2]}"
    with pytest.raises(FileNotFoundError, match=message + r".*bad_images='skip'"):
        NIHChestXray14(release, "all")
    assert len(NIHChestXray14(release, "test")) == 1  # no image of this split is missing
    with pytest.warns(UserWarning, match=message) as seen:
        dataset = NIHChestXray14(release, "all", bad_images="skip")
    assert [warning.filename for warning in seen] == [__file__]
    assert (dataset.names, dataset.skipped) == ([NAMES[0], NAMES[3]], NAMES[1:3])
    assert dataset.patient.tolist() == [0, 1]
    assert [round(image[0, 0, 0].item() * 255) for image, _ in dataset] == [0, 30]
    assert dataset.targets[1, NIH_LABELS.index("Hernia")] == 1
    for name in (NAMES[0], NAMES[3]):
        find(release, name).unlink()
    with pytest.raises(FileNotFoundError, match=r"4 of 4 images .*read_nih_tables"):
        NIHChestXray14(release, "all", bad_images="skip")
    with pytest.raises(ValueError, match="'ignore'"):
        NIHChestXray14(release, bad_images="ignore")


def test_missing_images_move_no_patient_between_train_and_val(tmp_path):
    write_release(tmp_path, film_names(1, 10), 20, pictures=np.zeros((20, 2, 2), dtype=np.uint8))
    train, val = (NIHChestXray14(tmp_path, split, val_fraction=0.5) for split in ("train", "val"))
    for name in train.names:
        find(tmp_path, name).unlink()
    assert NIHChestXray14(tmp_path, "val", val_fraction=0.5).names == val.names


def test_full_size_real_images_have_the_grey_values_of_their_files(shared_data):
    dataset = NIHChestXray14(shared_data / "nih-1024", "all")
    modes = []
    for i, (image, _) in enumerate(dataset):
        with Image.open(dataset.paths[i]) as stored:
            modes.append(stored.mode)
            grey = np.asarray(stored if stored.mode == "L" else stored.getchannel("R"))
        assert torch.equal(image[0], torch.from_numpy(grey / np.float32(255)))
    assert (len(modes), modes.count("RGBA")) == (24, 6)
