"""The NIH release: its tables, the split by patient, and the dataset of its images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih import Box, NIHChestXray14
from causalcxr.data.nih_tables import read_nih_tables
from nih_release import HEADER, film_names, write_release

NAMES = film_names(1, 2)
FINDINGS = [["Cardiomegaly", "Emphysema"], [], ["Hernia"], ["Hernia", "Infiltration"]]
LABELS, LABELS_2017 = "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"


@pytest.fixture
def release(tmp_path):
    """Four images of two patients, in two folders. Image i has grey value 10 i. The first three are in train_val."""
    pictures = [np.full((8, 6), 10 * i, dtype=np.uint8) for i in range(4)]
    options = {"findings": FINDINGS, "views": ["PA", "AP", "PA", "PA"], "boxes": [(NAMES[3], "Infiltrate", 1, 2, 3, 4)]}
    root = write_release(tmp_path, NAMES, 3, pictures=pictures, **options)
    folder = root / "images_012" / "images"
    folder.mkdir(parents=True)
    for name in NAMES[::2]:
        (root / "images" / name).rename(folder / name)
    return root


def test_the_tables_are_read_column_by_column(release):
    tables = read_nih_tables(release)
    assert (tables.names, tables.label_names, tables.label_file) == (NAMES, NIH_LABELS, LABELS)
    assert [{NIH_LABELS[k] for k in np.flatnonzero(row)} for row in tables.targets] == [*map(set, FINDINGS)]
    assert (tables.targets.dtype, tables.patient.dtype) == (np.float32, np.int64)
    assert tables.patient.tolist() == [0, 0, 1, 1]
    assert tables.view.tolist() == ["PA", "AP", "PA", "PA"]
    assert tables.sex.tolist() == ["M", "M", "F", "F"]
    assert tables.age.tolist() == [20, 21, 22, 23]
    assert tables.official_split.tolist() == ["train_val"] * 3 + ["test"]
    for rows in ([True, False, False, True], [0, -1]):
        assert tables.select(rows).names == [NAMES[0], NAMES[3]]


def test_files_of_2017_and_other_copies_give_the_same_but_for_units_of_age(release):
    expected = read_nih_tables(release)
    text = (release / LABELS).read_text()
    for i, age in enumerate(["057Y", "018M", "073D", "002W"]):
        text = text.replace(f",{20 + i},", f",{age},")
    for old, new in (("Patient Gender", "Patient Sex"), ("OriginalImage[Width,Height]", '"Original[Width,Height]"')):
        text = text.replace(old, new)
    (release / LABELS_2017).write_bytes(("\ufeff" + text.replace("\n", ",\r\n")).encode())
    for name in ("train_val_list", "test_list"):
        (release / f"{name}.txt").rename(release / f"{name}_NIH.txt")
    assert read_nih_tables(release).label_file == LABELS  # the newer file is preferred
    (release / LABELS).unlink()
    read = read_nih_tables(release)
    assert read.label_file == LABELS_2017
    np.testing.assert_allclose(read.age, [57, 1.5, 73 / 365.25, 14 / 365.25])
    for field in dataclasses.fields(read):
        if field.name not in ("age", "label_file"):
            np.testing.assert_array_equal(getattr(read, field.name), getattr(expected, field.name))


def test_boxes_use_the_label_names_of_the_table(release):
    (release / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{NAMES[2]},Infiltrate,1.5,2,3,4,,,\n"
        f"{NAMES[2]} , Mass,5, 6,7,8,,,\n"
        "00000009_000.png,Mass,5,6,7,8\n"
    )
    boxes = [Box("Infiltration", 1.5, 2, 3, 4), Box("Mass", 5, 6, 7, 8)]
    assert read_nih_tables(release).boxes == {NAMES[2]: boxes}
    assert read_nih_tables(release, labels=["Mass"]).boxes == {NAMES[2]: boxes[1:]}
    assert read_nih_tables(release).split("test").boxes == {}
    (release / "BBox_List_2017.csv").unlink()
    assert read_nih_tables(release).boxes == {}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (LABELS, HEADER + "\n7.png,Mass,0,4", "line 2 has 4 columns, expected 7"),
        (LABELS, HEADER + "\n7.png,Mass,0,4,57Q,M,PA", "'Patient Age': '57Q'"),
        (LABELS, HEADER + "\n7.png,Mass|Masses,0,4,57,M,PA", r"'Mass\|Masses': unknown label 'Masses'"),
        (LABELS, HEADER + "\n7.png,Mass,0,4,57,M,PA" * 2, "1 image names occur more than once: 7.png"),
        (LABELS, "Image Index,Finding Labels\n", "'Image Index,Finding Labels' lacks Patient ID, Patient Age"),
        (LABELS, HEADER + "\n", "no rows"),
        ("test_list.txt", "a.png b.png c.png d.png e.png f.png", f"6 of 6 names are not in {LABELS}: a.*e.png, ..."),
        ("test_list.txt", NAMES[1], f"1 names are in the train_val list as well: {NAMES[1]}"),
        ("BBox_List_2017.csv", "header\n7.png,Mass,5,6,7\n", "'7.png,Mass,5,6,7', expected name,label,x,y,w,h"),
    ],
)
def test_a_damaged_table_is_refused_by_name(release, file, text, message):
    (release / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        read_nih_tables(release)


def test_a_missing_table_is_refused_by_the_names_it_may_have(release):
    (release / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no list test_list.txt or test_list_NIH.txt in"):
        read_nih_tables(release)


@pytest.fixture
def tables(tmp_path):
    """Tables of 200 patients with two images each; patient 0 is in neither list."""
    names = film_names(0, 200)
    write_release(tmp_path, names, 320)
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[2:320]))
    return read_nih_tables(tmp_path)


def test_train_and_val_divide_the_train_val_patients(tables):
    train, val = (tables.split(s, val_fraction=0.25, seed=1) for s in ("train", "val"))
    train_val, test = tables.split("train_val"), tables.split("test")
    assert not set(train.patient) & set(val.patient)
    assert not set(train_val.patient) & set(test.patient)
    assert sorted(train.names + val.names) == train_val.names
    assert len(set(val.patient)) == round(0.25 * len(set(train_val.patient)))
    assert len(tables.split("all")) == len(tables) == len(train_val) + len(test) + 2


def test_division_depends_on_seed_and_fraction_only(tables):
    val = {f: set(tables.split("val", val_fraction=f).patient.tolist()) for f in (0.1, 0.3)}
    assert val[0.1] < val[0.3]
    assert set(tables.split("val", seed=1).patient.tolist()) != val[0.1]
    backwards = tables.select(np.arange(len(tables))[::-1])
    assert backwards.split("val").names == tables.split("val").names[::-1]
    # Recorded, to detect a change of platform or library that moves patients.
    assert sorted(val[0.1]) == [15, 36, 44, 46, 74, 76, 85, 87, 99, 101, 115, 130, 137, 138, 142, 147]


def test_fractions_at_the_edges(release):
    tables = read_nih_tables(release)
    assert tables.split("train", val_fraction=0).names == tables.split("train_val").names
    assert len(set(tables.split("val", val_fraction=0.01).patient)) == 1
    assert len(set(tables.split("train", val_fraction=0.99).patient)) == 1
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="val_fraction"):
            tables.split("val", val_fraction=fraction)
    with pytest.raises(ValueError, match="'valid'"):
        tables.split("valid")


def test_full_release_has_the_published_counts(shared_data):
    tables = read_nih_tables(shared_data / "nih-tables")
    assert len(tables) == 112_120
    assert len(set(tables.patient.tolist())) == 30_805
    assert tables.targets.sum(0).astype(int).tolist() == (
        [11_559, 2_776, 13_317, 19_894, 5_782, 6_331, 1_431, 5_302, 4_667, 2_303, 2_516, 1_686, 3_385, 227]
    )
    assert int((tables.targets.sum(1) == 0).sum()) == 60_361
    train_val, test = tables.split("train_val"), tables.split("test")
    assert (len(train_val), len(test)) == (86_524, 25_596)
    assert (len(set(train_val.patient.tolist())), len(set(test.patient.tolist()))) == (28_008, 2_797)
    assert (len(tables.boxes), sum(map(len, tables.boxes.values()))) == (880, 984)
    assert test.boxes == tables.boxes


def test_items_are_images_and_targets_in_the_order_of_the_tables(release):
    dataset, tables = NIHChestXray14(release, "all"), read_nih_tables(release)
    for i, (image, target) in enumerate(dataset):
        assert torch.equal(image, torch.full((1, 8, 6), 10 * i / 255))
        assert target.tolist() == tables.targets[i].tolist()
        assert Path(dataset.paths[i]).name == NAMES[i]
    for name in ("names", "label_names", "patient", "view", "sex", "age", "boxes", "label_file"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(tables, name))
    assert dataset.skipped == []
    assert torch.equal(dataset[-1][0], dataset[3][0])
    dataset[2][1].fill_(5)
    assert dataset.targets.max() == 1  # the dataset's targets are unchanged


def test_options_select_images_and_columns_and_change_the_image(release):
    assert NIHChestXray14(release, "test").names == NAMES[3:]
    assert NIHChestXray14(release, "train", val_fraction=0).names == NAMES[:3]
    assert len({tuple(NIHChestXray14(release, "val", val_fraction=0.5, seed=seed).names) for seed in range(8)}) == 2
    options = {"image_size": (4, 5), "transform": lambda image: image.expand(3, -1, -1) * 2}
    dataset = NIHChestXray14(release, "all", labels=("Hernia", "Cardiomegaly"), **options)
    assert dataset.label_names == ("Hernia", "Cardiomegaly")
    assert [target.tolist() for _, target in dataset] == [[0, 1], [0, 0], [1, 0], [1, 0]]
    torch.testing.assert_close(dataset[1][0], torch.full((3, 4, 5), 20 / 255))


def test_all_images_may_be_in_numbered_folders(release):
    (release / "images_001").mkdir()
    (release / "images").rename(release / "images_001" / "images")
    assert [round(image[0, 0, 0].item() * 255) for image, _ in NIHChestXray14(release, "all")] == [0, 10, 20, 30]


def remove(root, names):
    for name in names:
        next(root.rglob(name)).unlink()


def test_missing_images_are_reported_on_construction_or_left_out(release):
    remove(release, NAMES[1:3])
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
    assert dataset.targets[:, NIH_LABELS.index("Hernia")].tolist() == [0, 1]
    remove(release, dataset.names)
    with pytest.raises(FileNotFoundError, match=r"4 of 4 images "):
        NIHChestXray14(release, "all", bad_images="skip")
    with pytest.raises(ValueError, match="'ignore'"):
        NIHChestXray14(release, bad_images="ignore")


def test_missing_images_move_no_patient_between_train_and_val(release):
    train, val = (NIHChestXray14(release, split, val_fraction=0.5) for split in ("train", "val"))
    remove(release, train.names)
    assert NIHChestXray14(release, "val", val_fraction=0.5).names == val.names
