"""`causalcxr predict`: scores of files, folders and patterns, and their errors."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import causalcxr
from causalcxr import cli
from causalcxr.data import NIH_LABELS

CLINICAL = "Research software, not a medical device, not for clinical use."


def expected_scores(folder, path, temperature=1.0):
    model = causalcxr.create_model(folder).eval()
    with torch.no_grad():
        return (model(model.preprocess(path))[0] / temperature).sigmoid().tolist()


def test_rows_have_probabilities_thresholds_and_positives(run, images, folder, calibrated):
    """In CSV and JSON lines; without a calibration, scores are plain sigmoids."""
    thresholds = dict(zip(NIH_LABELS, [0.0, 1.0] * 7, strict=True))
    for model, temperature, at, positives in (
        (folder, 1.0, None, None),
        (calibrated, 0.5, thresholds, list(NIH_LABELS[::2])),
    ):
        code, out, err = run("predict", images, "--model", model, "--format=jsonl")
        found = [json.loads(line) for line in out.splitlines()]
        assert (code, err) == (0, "")
        assert [row["path"] for row in found] == [str(images / name) for name in ("a.jpg", "a.png", "more/b.png")]
        rows = csv.DictReader(io.StringIO(run("predict", images, "--model", model, "--format=csv")[1]))
        for row, cells in zip(found, rows, strict=True):
            expected = expected_scores(model, Path(row["path"]), temperature)
            np.testing.assert_allclose(list(row["scores"].values()), expected, rtol=1e-5)
            assert re.fullmatch(re.escape(str(model)) + r" \([0-9a-f]{8}\)", row["model"])
            assert (row["thresholds"], row["positives"]) == (at, positives)
            given = [row["path"], row["model"], *row["scores"].values(), "|".join(positives or ())]
            given += (at or dict.fromkeys(NIH_LABELS, "")).values()
            assert (list(cells)[2:16], list(cells.values())) == (list(NIH_LABELS), list(map(str, given)))


def test_the_table_lists_the_highest_first_and_marks_what_is_at_its_threshold(run, calibrated, images):
    code, out, err = run("predict", images / "a.png", "--model", calibrated)
    path, *lines, blank, legend, last = out.splitlines()
    assert (code, err, path, blank, last) == (0, "", str(images / "a.png"), "", CLINICAL)
    assert legend.startswith("* at or above the finding's threshold")
    scores = expected_scores(calibrated, images / "a.png", temperature=0.5)
    for k, line in zip(np.argsort(scores)[::-1], lines, strict=True):
        mark = " " if k % 2 else "*"  # see `calibrated`
        assert line.startswith(f"{mark} {NIH_LABELS[k]} ")
        assert float(line[2:].split()[1]) == pytest.approx(scores[k], abs=6e-4)


def test_bad_files_are_reported_and_the_rest_is_done(run, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes((images / "a.png").read_bytes()[:-30])
    code, out, err = run("predict", bad, images / "a.png", tmp_path / "absent.png", "--format", "csv")
    assert (code, [line.split(",")[0] for line in out.splitlines()]) == (1, ["path", str(images / "a.png")])
    assert f"error: no such file: {tmp_path / 'absent.png'}" in err
    assert f"error: cannot read image '{bad}': Truncated" in err


def test_no_image_that_can_be_scored_is_2(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert run("predict", tmp_path)[:2] == (2, f"{CLINICAL}\n")
    said = f"error: no such file: {tmp_path / '*.dcm'}\nerror: no images found\n"
    assert run("predict", tmp_path / "*.dcm") == (2, "", said)


def test_a_model_without_weights_is_refused(run, images):
    code, out, err = run("predict", images, "--model", "causal_test_resnet")
    assert (code, out, "error: cannot load the model causal_test_resnet: " in err) == (2, "", True)


def test_batch_size_and_workers_go_to_predict(run, images, monkeypatch):
    given = []
    monkeypatch.setattr(cli, "score", lambda *_, **options: given.append(options) or ())
    run("predict", images, "--batch-size=3", "--workers=5")
    assert given == [{"batch_size": 3, "workers": 5}]


def test_warnings_name_the_file_once(run, images, tmp_path):
    Image.open(images / "a.png").resize((40, 40)).save(tmp_path / "small.png")
    err = run("predict", tmp_path / "small.png", "--heatmap", tmp_path / "maps")[2]
    assert (err.count("\n"), f"warning: {tmp_path / 'small.png'}: 40x40 enlarged to 96x96" in err) == (1, True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_may_be_any_bytes(run, images, tmp_path, monkeypatch):
    """Names with newlines, invalid UTF-8 or broken formulas can be scored, drawn and evaluated."""
    odd, table, maps = os.fsdecode(b"a$x_{$\xff\n.png"), tmp_path / "scores.csv", tmp_path / "maps"
    (tmp_path / odd).mkdir()
    for name in (odd, "a.png"):
        (tmp_path / odd / name).symlink_to(images / "a.png")
    assert run("predict", tmp_path / odd / odd, "--heatmap", maps, "--output", tmp_path / "odd.csv")[0] == 0
    assert [path.name for path in maps.rglob("*.heatmap.png")] == [f"{odd}.heatmap.png"]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", strict := io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
        assert run("predict", tmp_path / odd / odd)[0] == 0
    assert os.fsencode(tmp_path / odd / odd) in strict.buffer.getvalue()
    run("predict", tmp_path / odd / "a.png", images / "more", "--output", table)
    rows = (f"{name}{f',{label}' * len(NIH_LABELS)}" for name, label in (("b.png", 1), ("a.png", 0)))
    (tmp_path / "labels.csv").write_text("\n".join([",".join(["path", *NIH_LABELS]), *rows]))
    code, _, err = run("evaluate", table, tmp_path / "labels.csv")
    assert (code, "threshold" in err) == (0, False)  # columns of the table, but no labels


def test_patterns_and_folders_name_each_image_once(images):
    paths, problems = cli.find_images([str(images / "*.png"), str(images), str(images / "**" / "*.png")])
    assert sorted(paths) == [images / "a.jpg", images / "a.png", images / "more" / "b.png"]
    assert (paths[0], problems) == (images / "a.png", [])


def test_linked_folders_are_followed_and_each_counts_once(tmp_path):
    """Cyclic links end, and real paths win over linked ones."""
    for name in ("here/own/a.png", "there/more/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for link, target in {"here/0": "there", "here/1": "here/own", "here/2": "there/more", "there/back": "here"}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [tmp_path / "here/0/more/b.png", tmp_path / "here/own/a.png"]
    assert cli.find_images([str(tmp_path / "here")]) == (found, [])


def test_images_of_a_folder_are_known_by_ending_or_content(tmp_path, monkeypatch):
    for name in ("notes.txt", ".hidden.png", "a.png.heatmap.png"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert cli.find_images([str(tmp_path)]) == ([], [f"no images in {tmp_path}"])
    assert cli.find_images([str(tmp_path / "notes.txt")]) == ([tmp_path / "notes.txt"], [])  # named, so it is tried
    dicom, upper, broken = tmp_path / "1.2.840.113", tmp_path / "A.JPG", tmp_path / "to_nothing.png"
    dicom.write_bytes(bytes(128) + b"DICM")
    upper.touch()
    broken.symlink_to(tmp_path / "absent")  # tried, to report the error
    assert cli.find_images([str(tmp_path)]) == ([dicom, upper, broken], [])

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)  # not skipped, so that reading it reports the error
    assert cli.find_images([str(tmp_path)]) == ([dicom, upper, tmp_path / "notes.txt", broken], [])


def test_a_folder_that_cannot_be_listed_is_reported(images, monkeypatch):
    listed, error = os.scandir, PermissionError(13, "Permission denied", str(images / "more"))

    def refuse(folder):
        if folder == error.filename:
            raise error
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert cli.find_images([str(images)]) == ([images / "a.jpg", images / "a.png"], [str(error)])
