import numpy as np
import pytest

from causalcxr.data.labels import NIH_LABELS
from causalcxr.data.nih_tables import Box, read_nih_tables


def test_v2020_file_is_read_column_by_column(tmp_path, write_release):
    tables = read_nih_tables(write_release(tmp_path))
    assert len(tables) == 4
    for rows in ([True, False, False, True], [0, -1]):
        assert tables.select(rows).patient.tolist() == [1, 3]
    assert tables.names[3] == "00000003_001.png"
    assert tables.label_names == NIH_LABELS
    listed = [[NIH_LABELS[k] for k in np.flatnonzero(row)] for row in tables.targets]
    assert listed == [["Cardiomegaly", "Emphysema"], [], ["Hernia"], ["Infiltration", "Hernia"]]
    assert tables.targets.dtype == np.float32
    assert tables.patient.tolist() == [1, 2, 3, 3]
    assert tables.patient.dtype == np.int64
    assert tables.view.tolist() == ["PA", "AP", "PA", "PA"]
    assert tables.sex.tolist() == ["M", "F", "F", "F"]
    assert tables.age.tolist() == [57, 80, 1, 0]
    assert tables.official_split.tolist() == ["train_val", "test", "train_val", "train_val"]
    assert tables.boxes == {}


def test_2017_file_gives_the_same_but_for_units_of_age(tmp_path, write_release):
    old = read_nih_tables(write_release(tmp_path / "old", version="2017", suffix="_NIH"))
    new = read_nih_tables(write_release(tmp_path / "new"))
    assert old.names == new.names
    for column in ("targets", "patient", "view", "sex", "official_split"):
        np.testing.assert_array_equal(getattr(old, column), getattr(new, column))
    np.testing.assert_allclose(old.age, [57, 80, 1.5, 73 / 365.25])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Patient Gender", "Patient Sex"),
        ("OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"'),
        ("Image Index", "\ufeffImage Index"),
    ],
)
def test_headers_of_other_copies_are_understood(tmp_path, write_release, old, new):
    expected = read_nih_tables(write_release(tmp_path))
    file = tmp_path / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace(old, new), encoding="utf-8")
    read = read_nih_tables(tmp_path)
    assert read.names == expected.names
    np.testing.assert_array_equal(read.sex, expected.sex)


def test_the_newer_label_file_is_read_where_both_are_there(tmp_path, write_release):
    write_release(tmp_path, version="2017")
    assert read_nih_tables(tmp_path).label_file == "Data_Entry_2017.csv"
    write_release(tmp_path)
    assert read_nih_tables(tmp_path).label_file == "Data_Entry_2017_v2020.csv"


def test_targets_follow_the_labels_asked_for(tmp_path, write_release):
    tables = read_nih_tables(write_release(tmp_path), labels=["Hernia", "Cardiomegaly"])
    assert tables.label_names == ("Hernia", "Cardiomegaly")
    assert tables.targets.tolist() == [[0, 1], [0, 0], [1, 0], [1, 0]]
    with pytest.raises(ValueError, match="'Hernia'"):
        read_nih_tables(tmp_path, labels=["hernia"])


def test_boxes_use_the_label_names_of_the_table(tmp_path, write_release):
    write_release(tmp_path)
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000003_001.png,Infiltrate,1.5,2,3,4,,,\n"
        "00000003_001.png , Mass,5, 6,7,8,,,\n"
        "00000009_000.png,Mass,5,6,7,8\n"
    )
    boxes = [Box("Infiltration", 1.5, 2, 3, 4), Box("Mass", 5, 6, 7, 8)]
    assert read_nih_tables(tmp_path).boxes == {"00000003_001.png": boxes}
    assert read_nih_tables(tmp_path, labels=["Mass"]).boxes == {"00000003_001.png": boxes[1:]}
    assert read_nih_tables(tmp_path).split("test").boxes == {}
    (tmp_path / "BBox_List_2017.csv").write_text("header\n00000003_001.png,Mass,5,6,7\n")
    with pytest.raises(ValueError, match=r"'00000003_001\.png,Mass,5,6,7', expected name,label,x,y,w,h"):
        read_nih_tables(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000004_000.png,Mass,0,4", r"line 6 has 4 columns, expected 7"),
        ("00000004_000.png,Mass,0,x4,57,M,PA,1,1,1,1", r"'Patient ID': .*'x4'"),
        ("00000004_000.png,Mass,0,4,57Q,M,PA,1,1,1,1", r"'Patient Age': '57Q' is no age"),
        ("00000004_000.png,Mass|Masses,0,4,57,M,PA,1,1,1,1", r"'Mass\|Masses': unknown label 'Masses'"),
        ("00000001_000.png,Mass,0,4,57,M,PA,1,1,1,1", r"1 image names occur more than once: 00000001_000\.png"),
    ],
)
def test_damaged_label_files_are_refused(tmp_path, write_release, row, message):
    write_release(tmp_path)
    with (tmp_path / "Data_Entry_2017_v2020.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(ValueError, match=rf"Data_Entry_2017_v2020\.csv.*{message}"):
        read_nih_tables(tmp_path)


def test_label_files_without_columns_or_rows_are_refused(tmp_path, write_release):
    write_release(tmp_path)
    header = (tmp_path / "Data_Entry_2017_v2020.csv").read_text().split("\n")[0]
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("Image Index,Finding Labels\n")
    with pytest.raises(ValueError, match=r"the header is 'Image Index,Finding Labels', expected .*Patient ID"):
        read_nih_tables(tmp_path)
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match="no rows below the header"):
        read_nih_tables(tmp_path)


def test_missing_tables_are_named(tmp_path, write_release):
    with pytest.raises(FileNotFoundError, match=r"Data_Entry_2017_v2020\.csv or Data_Entry_2017\.csv in .*absent"):
        read_nih_tables(tmp_path / "absent")
    write_release(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_list\.txt or test_list_NIH\.txt in"):
        read_nih_tables(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [f"x{i}.png" for i in range(7)],
            r"7 of 7 names are not in Data_Entry_2017_v2020\.csv: x0\.png, .*x4\.png, \.\.",
        ),
        (["00000003_000.png"], r"1 names are in the train_val list as well: 00000003_000\.png"),
    ],
)
def test_lists_that_do_not_fit_the_label_file_are_refused(tmp_path, write_release, names, message):
    write_release(tmp_path)
    (tmp_path / "test_list.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=message):
        read_nih_tables(tmp_path)


@pytest.fixture
def many_patients(tmp_path, write_release):
    """Tables of 200 patients with one to three images each; patient 1 is in neither list."""
    rows = [f"{p:08d}_{i:03d}.png,No Finding,{i},{p},50,M,PA,1,1,1,1" for p in range(1, 201) for i in range(1 + p % 3)]
    patients = [int(row[:8]) for row in rows]
    test = [i for i, p in enumerate(patients) if p % 5 == 0]
    train_val = [i for i, p in enumerate(patients) if p % 5 and p != 1]
    return read_nih_tables(write_release(tmp_path, rows=rows, train_val=train_val, test=test))


@pytest.mark.parametrize("seed", [0, 1])
def test_train_and_val_divide_the_train_val_patients(many_patients, seed):
    tables = many_patients
    train, val = (tables.split(s, val_fraction=0.25, seed=seed) for s in ("train", "val"))
    train_val, test = tables.split("train_val"), tables.split("test")
    assert not set(train.patient) & set(val.patient)
    assert not set(train_val.patient) & set(test.patient)
    assert sorted(train.names + val.names) == train_val.names
    assert len(set(val.patient)) == round(0.25 * len(set(train_val.patient)))
    assert len(tables.split("all")) == len(tables) == len(train_val) + len(test) + 2


def test_division_depends_on_seed_and_fraction_only(many_patients):
    tables = many_patients
    val = {f: set(tables.split("val", val_fraction=f).patient.tolist()) for f in (0.1, 0.3)}
    assert val[0.1] < val[0.3]
    assert set(tables.split("val", seed=1).patient.tolist()) != val[0.1]
    backwards = tables.select(np.arange(len(tables))[::-1])
    assert backwards.split("val").names == tables.split("val").names[::-1]
    # Recorded, so that a change of platform or library that would move patients does not pass unseen.
    assert sorted(val[0.1]) == [36, 44, 46, 69, 74, 76, 87, 99, 101, 137, 138, 142, 146, 147, 174, 192]


def test_fractions_at_the_edges(tmp_path, write_release):
    tables = read_nih_tables(write_release(tmp_path))
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
    assert len(tables.boxes) == 880
    assert sum(len(boxes) for boxes in tables.boxes.values()) == 984
    assert test.boxes == tables.boxes
    assert {box.label for boxes in tables.boxes.values() for box in boxes} < set(NIH_LABELS)
    assert set(tables.view.tolist()) == {"AP", "PA"}
    assert set(tables.sex.tolist()) == {"F", "M"}
    train, val = tables.split("train"), tables.split("val")
    assert len(set(val.patient.tolist())) == 2_801
    assert len(train) + len(val) == 86_524
    assert not set(train.patient.tolist()) & set(val.patient.tolist())
