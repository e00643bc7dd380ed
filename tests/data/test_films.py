import numpy as np
import pytest
import torch
from PIL import Image

from causalcxr.data import CSVDataset, read_image


def write(folder, text, images=("a.png", "b.png", "c.png")):
    for i, name in enumerate(images):
        Image.fromarray(np.full((8, 6), 10 * (i + 1), dtype=np.uint8)).save(folder / name)
    (folder / "films.csv").write_text(text, encoding="utf-8-sig")
    return folder / "films.csv"


def test_items_are_images_and_targets(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "d.png"
    elsewhere.parent.mkdir()
    text = f"path,Mass,patient,Drain\na.png,True,p1,\n{elsewhere},0.0,p2,1.0\nc.png,,p1, FALSE\n"
    table = write(tmp_path, text, ["a.png", "elsewhere/d.png", "c.png"])
    dataset = CSVDataset(table, "all", image_size=(4, 5), transform=lambda image: image * 2)
    assert (dataset.names, dataset.label_names) == (["a.png", str(elsewhere), "c.png"], ("Mass", "Drain"))
    assert dataset.patient.tolist() == ["p1", "p2", "p1"]
    expected = torch.tensor([[1, torch.nan], [0, 1], [torch.nan, 0]])
    torch.testing.assert_close(dataset.targets, expected, rtol=0, atol=0, equal_nan=True)
    for (image, target), name, row in zip(dataset, dataset.names, expected, strict=True):
        assert torch.equal(image, 2 * read_image(tmp_path / name, size=(4, 5)))
        torch.testing.assert_close(target, row, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("column", [True, False])
def test_train_and_val_share_no_patient_and_are_all(tmp_path, column):  # without the column, each image is a patient
    names = [f"{i}.png" for i in range(12)]
    rows = [f"{name},p{i // 3},0" if column else f"{name},0" for i, name in enumerate(names)]
    header = "path,patient,Mass\n" if column else "path,Mass\n"
    table = write(tmp_path, header + "\n".join(rows), names)
    train, val = (CSVDataset(table, split, val_fraction=0.5) for split in ("train", "val"))
    assert len(train) == len(val) == 6
    assert not set(train.patient) & set(val.patient)
    assert sorted(train.names + val.names) == sorted(names)
    assert len({tuple(CSVDataset(table, "val", val_fraction=0.5, seed=seed).names) for seed in range(8)}) > 1


def test_a_split_that_is_unknown_or_empty_is_refused(tmp_path):
    table = write(tmp_path, "path,Mass\na.png,0\n")
    with pytest.raises(ValueError, match=r"split 'val' has no images \(val_fraction=0.1, 1 images in all"):
        CSVDataset(table, "val")
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'all'"):
        CSVDataset(table, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,Mass,age\na.png,1,\nb.png,1,63\n", "films.csv, line 3: column 'age' has '63', but .* label_names="),
        ("path,Mass\na.png\n", "line 2: expected 2 comma-separated cells"),
        ("path,Mass\na.png,1,0\n", "line 2: expected 2 comma-separated cells"),
        ("path,patient,Mass\na.png, ,1\n", "line 2: 'patient' or 'path' is empty"),
        ("path,Mass\na.png,1\nb.png,1\na.png,0\n", "1 paths occur more than once: a.png"),
        ("path,Mass\na.png,1\n./a.png,0\n", "1 paths occur more than once: a.png"),
        ("path,Patient ID,Mass\na.png,p,1\n", "rename the column 'Patient ID' to 'patient'"),
        ("path;Mass\na.png;1\n", "separated by commas, .* but is 'path;Mass'"),
        ("path,patient\na.png,1\n", "the header must have"),
        (",path,Mass\n0,a.png,1\n", "the header must have"),
        ("path,Mass,Mass\na.png,1,0\n", "the header must have"),
        ("", "the header must have"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        CSVDataset(write(tmp_path, text))


def test_columns_that_are_no_labels(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    films = CSVDataset(write(tmp_path, "path,Mass,view,Drain\na.png,1,AP,0\n"), "all", label_names=["Drain", "Mass"])
    assert (films.label_names, films.targets.tolist()) == (("Drain", "Mass"), [[0, 1]])
    assert {name: values.tolist() for name, values in films.metadata.items()} == {"view": ["AP"]}
    with pytest.raises(ValueError, match=r"films\.csv does not have these columns: unknown label .*Edema"):
        CSVDataset(tmp_path / "films.csv", "all", label_names=np.array(["Mass", "Edema"]))
    table = write(tmp_path, "path,Mass,patient,PatientID\na.png,1,p,1\n")
    assert CSVDataset(table, "all", label_names=["Mass"]).patient.tolist() == ["p"]


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "films.csv").write_text("path,Größe\na.png,1\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"films.csv: .*; save it as UTF-8, with commas"):
        CSVDataset(tmp_path / "films.csv")


def test_missing_files_are_reported_and_damaged_ones_when_read(tmp_path):
    table = write(tmp_path, "path,Mass\na.png,1\nx.png,0\ny.png,0\n")
    with pytest.raises(FileNotFoundError, match=r"films.csv: 2 of 3 images are missing: x.png, y.png; paths must"):
        CSVDataset(table, "all")
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        CSVDataset(tmp_path / "nothing.csv")
    (tmp_path / "x.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "y.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.png"):
        CSVDataset(table, "all")[1]
