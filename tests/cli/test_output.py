"""`causalcxr predict --output`: resumed runs and multiple processes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import causalcxr


def paths_in(file):
    if file.suffix == ".csv":
        with file.open(newline="") as opened:
            return [row["path"] for row in csv.DictReader(opened)]
    return [json.loads(line)["path"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_run_that_was_killed_goes_on(run, images, tmp_path, suffix):
    """Wherever its last row broke off, also within a name of several lines. A complete file gets no row."""
    paths, file = [tmp_path / f'{number}"\n\r.png' for number in range(3)], tmp_path / "a" / "b" / f"scores{suffix}"
    for path in paths:
        path.symlink_to(images / "a.png")
    assert run("predict", *paths, "--output", file) == (0, "", f"wrote 3 rows to {file}\n")
    whole = file.read_bytes()
    end_of_name = whole.rindex(b".png")
    for length, there in ((end_of_name - 1, 2), (end_of_name, 2), (end_of_name + 9, 2), (len(whole), 3)):
        file.write_bytes(whole[:length])
        said = f"{there} of 3 images are already in {file}\nwrote {3 - there} rows to {file}\n"
        assert run("predict", *paths, "--output", file) == (0, "", said)
        assert paths_in(file) == [str(path) for path in paths]


def test_a_stopped_run_says_how_to_go_on(run, images, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("causalcxr.cli.find_images", stop)
    code, _, err = run("predict", images, "--output", tmp_path / "scores.csv")
    assert (code, err) == (130, "stopped; the same command continues\n")


def test_a_file_that_a_spreadsheet_saved_again_goes_on(run, folder, images, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    file = tmp_path / "scores.csv"
    assert run("predict", images / "a.png", "--output", file, "--model", folder.name)[0] == 0
    file.write_text(file.read_text(), encoding="utf-8-sig", newline="\r\n")
    for name in (f"{folder.name}/", f"./{folder.name}"):
        assert run("predict", images, "--output", file, "--model", name)[0] == 0
    with file.open(encoding="utf-8-sig", newline="") as opened:
        assert len([*csv.DictReader(opened)]) == 3


@pytest.mark.parametrize(("suffix", "thresholds"), [("csv", None), ("csv", [0.0, 1.0] * 7), ("jsonl", [0.5] * 14)])
def test_rows_of_other_weights_are_not_mixed(run, images, folder, calibrated, tmp_path, suffix, thresholds):
    """Thresholds of 0 and 1 are those of the calibrated model, whose temperature differs."""
    file, model = tmp_path / f"scores.{suffix}", tmp_path / "model"
    shutil.copytree(calibrated if thresholds else folder, model)
    command = ["predict", images, "--output", file, "--model"]
    assert run(*command, model)[0] == run(*command, f"{tmp_path}/./model/")[0] == 0
    before, trained_anew = file.read_bytes(), causalcxr.create_model(model)
    torch.nn.init.ones_(trained_anew.head.causal_classifier.weight)
    fitted = causalcxr.Calibration(1.0, thresholds) if thresholds else None
    causalcxr.save_pretrained(trained_anew, model, calibration=fitted)
    code, _, err = run(*command, model)
    assert (code, "its rows come from the model" in err, file.read_bytes()) == (2, True, before)
    assert run(*command, calibrated if thresholds else folder)[0] == 0  # the same model elsewhere
    assert file.read_bytes() == before


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_with_other_labels_are_not_mixed(run, images, folder, tmp_path, suffix):
    shutil.copytree(folder, tmp_path / "model")
    command, config = ["predict", images, "--output", tmp_path / f"scores.{suffix}", "--model"], "model/config.json"
    assert run(*command, folder)[0] == 0
    (tmp_path / config).write_text((tmp_path / config).read_text().replace("Mass", "Lump"))
    code, _, err = run(*command, tmp_path / "model")
    assert (code, "it has other columns than this model would write" in err) == (2, True)


def test_a_bad_file_beside_rows_of_an_earlier_run_is_1(run, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for there in (0, 1):
        code, _, err = run("predict", images / "a.png", tmp_path / "bad.png", "--output", tmp_path / "scores.csv")
        assert (code, f"wrote {1 - there} rows" in err) == (1, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "path,Mass\na.png,0.5\nb.png"), ("a.jsonl", '{"path": "a.png"}\n'), ("b.jsonl", "a")],
)
def test_files_of_others_stay_as_they_are(run, images, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    code, _, err = run("predict", images, "--output", tmp_path / name)
    assert (code, (tmp_path / name).read_text()) == (2, text)
    assert f"cannot append to {tmp_path / name}" in err


def test_the_ending_of_the_file_is_its_format(run, images, tmp_path):
    assert run("predict", images, "--output", tmp_path / "scores.txt")[0] == 2
    assert run("predict", images, "--output", tmp_path / "scores.jsonl", "--format", "csv")[0] == 2


@pytest.mark.slow
def test_two_processes_write_one_output(folder, images, tmp_path):
    pytest.importorskip("accelerate")
    for number in range(5):
        (tmp_path / f"{number}.png").symlink_to(images / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    file = tmp_path / "scores.jsonl"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "causalcxr", "predict", str(tmp_path), f"--model={folder}", f"--output={file}"]
    no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launch, *command, "--batch-size=2"], capture_output=True, text=True, env=no_gpu)
    assert (done.returncode, done.stderr.count("error: cannot read image")) == (1, 1)
    assert sorted(paths_in(file)) == [str(tmp_path / f"{number}.png") for number in range(5)]
    (tmp_path / "bad.png").unlink()
    (tmp_path / "6.png").symlink_to(images / "a.png")  # one image for two processes
    subprocess.run([*launch, *command, "--device=cpu"], check=True, capture_output=True)
    assert len(paths_in(file)) == 6


def test_processes_that_do_not_know_of_each_other_are_refused(run, images, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    assert run("predict", images, "--device=cuda") == (2, "", "error: cannot use the device cuda in 2 processes\n")
