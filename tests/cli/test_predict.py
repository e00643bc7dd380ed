"""`causalcxr predict`: scores of files, folders and patterns, and what goes wrong with them."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import causalcxr
from causalcxr import cli
from causalcxr.data import NIH_LABELS

CLINICAL = "Research software, not a medical device, not for clinical use."


def expected_scores(folder: Path, path: Path) -> list[float]:
    model = causalcxr.create_model(folder).eval()
    with torch.no_grad():
        return model(model.preprocess(path))[0].sigmoid().tolist()


def test_csv_has_the_probabilities_of_the_causal_branch(run, folder, images):
    code, out, err = run("predict", images, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert [row["path"] for row in rows] == [str(images / name) for name in ("a.jpg", "a.png", "more/b.png")]
    for row in rows:
        scores = [float(row[label]) for label in NIH_LABELS]
        np.testing.assert_allclose(scores, expected_scores(folder, Path(row["path"])), rtol=1e-5)
        assert [row["model"], row["positives"], row["Mass threshold"]] == [str(folder), "", ""]


def test_json_lines_have_the_same_scores(run, images):
    code, out, _ = run("predict", images, "--format", "jsonl")
    read = [json.loads(line) for line in out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(run("predict", images, "--format", "csv")[1])))
    assert code == 0
    for image, row in zip(read, rows, strict=True):
        assert image["path"] == row["path"]
        assert image["scores"] == {name: float(row[name]) for name in NIH_LABELS}
        assert (image["thresholds"], image["positives"]) == (None, None)  # without a calibration


def test_the_table_lists_the_highest_first_and_says_what_it_is_not(run, folder, images):
    code, out, err = run("predict", images / "a.png")
    path, *lines, blank, last = out.splitlines()
    assert (code, err, path, blank, last) == (0, "", str(images / "a.png"), "", CLINICAL)
    scores = expected_scores(folder, images / "a.png")
    order = np.argsort(scores)[::-1]
    assert [line.split()[0] for line in lines] == [NIH_LABELS[k] for k in order]
    assert [float(line.split()[1]) for line in lines] == [pytest.approx(scores[k], abs=6e-4) for k in order]


def test_a_calibrated_model_gives_probabilities_thresholds_and_positives(run, folder, calibrated, images):
    code, out, err = run("predict", images / "a.png", "--model", calibrated, "--format", "jsonl")
    image = json.loads(out)
    model = causalcxr.create_model(calibrated).eval()
    with torch.no_grad():
        logits = model(model.preprocess(images / "a.png"))
    assert (code, err) == (0, "")
    assert image["positives"] == list(NIH_LABELS[::2])
    assert image["thresholds"] == dict(zip(NIH_LABELS, [0.0, 1.0] * 7, strict=True))
    np.testing.assert_allclose(list(image["scores"].values()), (logits[0] / 0.5).sigmoid(), rtol=1e-5)
    assert not np.allclose(list(image["scores"].values()), expected_scores(folder, images / "a.png"), rtol=1e-3)
    [row] = csv.DictReader(io.StringIO(run("predict", images / "a.png", "--model", calibrated, "--format", "csv")[1]))
    assert row["positives"].split("|") == image["positives"]
    assert {label: float(row[label]) for label in NIH_LABELS} == image["scores"]
    assert {label: float(row[f"{label} threshold"]) for label in NIH_LABELS} == image["thresholds"]


def test_the_table_marks_what_is_at_its_threshold(run, calibrated, images):
    code, out, err = run("predict", images / "a.png", images / "more", "--model", calibrated)
    *tables, legend, last = out.splitlines()
    lines = [line for line in tables if line and not line.startswith(str(images))]
    assert (code, err, last) == (0, "", CLINICAL)
    assert legend == "* at or above the threshold of the finding, which was fitted on validation images"
    marked = [line.split()[1] for line in lines if line.startswith("* ")]
    assert len(lines) == 28
    assert sorted(marked) == sorted([*NIH_LABELS[::2]] * 2)


def test_dicom_is_scored_as_the_same_picture(run, images, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pixels = 255 - np.asarray(Image.open(images / "a.png"))
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, pydicom.uid.generate_uid()
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = *pixels.shape, 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 8, 8, 7, "MONOCHROME1"
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "1.2.840.113", enforce_file_format=True)  # found in a folder by what it holds
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    code, out, _ = run("predict", tmp_path, images / "a.png", "--format", "csv")
    dicom, png = csv.DictReader(io.StringIO(out))
    assert (code, dicom["path"]) == (0, str(tmp_path / "1.2.840.113"))
    np.testing.assert_allclose(*([float(row[label]) for label in NIH_LABELS] for row in (dicom, png)), rtol=1e-4)


def test_bad_files_are_reported_and_the_rest_is_done(run, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes((images / "a.png").read_bytes()[:-30])
    code, out, err = run("predict", bad, images / "a.png", tmp_path / "absent.png", "--format", "csv")
    assert code == 1
    assert [row[0] for row in csv.reader(io.StringIO(out))] == ["path", str(images / "a.png")]
    assert f"error: no file {tmp_path / 'absent.png'}" in err
    assert f"error: cannot read image '{bad}': Truncated" in err


def test_no_image_that_can_be_scored_is_2(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert run("predict", tmp_path)[:2] == (2, f"{CLINICAL}\n")
    code, out, err = run("predict", tmp_path / "*.dcm")
    assert (code, out) == (2, "")
    assert err == f"error: no file {tmp_path / '*.dcm'}\nerror: no image found\n"


def test_a_device_that_there_is_not_is_2(run, images):
    code, out, err = run("predict", images, "--device", "cuda:99")
    assert (code, out) == (2, "")
    assert err.startswith("error: cannot use the device cuda:99")


def test_warnings_name_the_file(run, images, tmp_path):
    Image.open(images / "a.png").resize((40, 40)).save(tmp_path / "small.png")
    code, _, err = run("predict", tmp_path / "small.png")
    assert code == 0
    assert f"warning: {tmp_path / 'small.png'}: 40x40 pixels for 96x96" in err


def test_patterns_and_folders_name_each_image_once(images, tmp_path):
    paths, problems = cli.find_images([str(images / "*.png"), str(images), str(images / "**" / "*.png")])
    assert sorted(paths) == [images / "a.jpg", images / "a.png", images / "more" / "b.png"]
    assert (paths[0], problems) == (images / "a.png", [])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "a.png.heatmap.png").write_bytes(b"")
    assert cli.find_images([str(tmp_path)]) == ([], [f"no image in folder {tmp_path}"])
    assert cli.find_images([str(tmp_path / "notes.txt")]) == ([tmp_path / "notes.txt"], [])  # named, so tried


def test_files_of_a_folder_that_cannot_be_opened_are_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "IM0001").write_bytes(b"")

    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert cli.find_images([str(tmp_path)]) == ([tmp_path / "IM0001"], [])
