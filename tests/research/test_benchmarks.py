"""Benchmarks: references agree with the library, and everything runs at small sizes."""

import json
from pathlib import Path

import pytest
import torch

import records
from benchmarks import compare, measuring, modes, predict, reading, yardsticks
from causalcxr import create_model

RESULTS = Path(compare.__file__).parent / "results"


def test_published_design_agrees_with_the_library_at_the_same_width():
    theirs = yardsticks.published_design("causal_test_resnet", dim=32).eval()
    ours = create_model("causal_test_resnet", num_classes=15, combine="cat", dim=32).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.forward_causal(images), theirs.forward_causal(images), rtol=1e-4, atol=1e-5)


def test_sides_are_timed_in_turns():
    ran = []
    times = measuring.in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, rounds=2)
    changes = [name for name, before in zip(ran, [None, *ran], strict=False) if name != before]
    assert changes == ["a", "b", "a"]  # the order is reversed in each round
    assert list(map(len, times.values())) == [2, 2]
    row = measuring.ratio({"a": [2.0, 9.0, 40.0], "b": [1.0, 3.0, 10.0]}, "a", "b")
    assert row == {"ratio": 3.0, "quartiles": [2.0, 4.0], "seconds": {"a": 9.0, "b": 3.0}}


def test_peak_of_tensors_is_what_is_held_at_once():
    kept = []

    def run():
        kept.clear()
        kept.append(torch.zeros(1024, 1024))
        torch.zeros(2048, 1024)  # freed at once, as is the next one
        torch.zeros(2048, 1024)

    assert measuring.peak_memory(run) == pytest.approx(12 * 2**20, rel=0.01)


def test_rows_of_earlier_runs_are_not_those_of_this_one(tmp_path):
    path = tmp_path / "results.json"
    for seconds in (1, 2):
        measuring.measure({"a": lambda seconds=seconds: {"seconds": seconds}}, str, path)
    assert json.loads(path.read_text())["results"]["a"]["seconds"] == 2


def test_results_written_into_the_checkout_do_not_make_later_rows_dirty(tmp_path, monkeypatch):
    records.commit.cache_clear()
    monkeypatch.setenv("COMMIT", "abc")

    def change():
        monkeypatch.setenv("COMMIT", "abc-dirty")
        return {}

    path = tmp_path / "results.json"
    measuring.measure({"a": dict, "b": change, "c": dict}, str, path)
    records.commit.cache_clear()
    assert {row["commit"] for row in json.loads(path.read_text())["results"].values()} == {"abc"}


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_everything_is_compared_in_small(tmp_path):
    compare.main(["--small", f"--json={tmp_path / 'compare.json'}"])
    rows = json.loads((tmp_path / "compare.json").read_text())["results"]
    assert len(rows) == len({*compare.ON_CPU, *compare.ON_GPU})
    assert rows["`ACmix`, (2, 32, 16, 16), forward and backward | unfold form"]["memory_ratio"] > 2


def test_modes_agree_and_checkpointing_saves_memory(tmp_path, monkeypatch):
    monkeypatch.delitem(modes.MODES, "compiled")  # takes minutes
    modes.main(["--small", f"--json={tmp_path / 'modes.json'}"])
    rows = json.loads((tmp_path / "modes.json").read_text())["results"]
    assert rows["contiguous"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["memory_ratio"] < 1
    assert 1e-5 < rows["bfloat16"]["gradients_error"] < 0.5


def test_batched_scoring_is_compared_with_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "DIFFERENT", 1)
    predict.main(["--films=2", "--side=128", "--rounds=1", f"--json={tmp_path / 'predict.json'}"])
    rows = json.loads((tmp_path / "predict.json").read_text())["results"]
    assert all(rows[format]["difference"] < 1e-4 for format in ("PNG", "JPEG"))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_results(path):
    modules = {"compare": compare, "modes": modes, "predict": predict, "reading": reading}
    module = modules[path.stem.split("_")[0]]
    assert module.table(json.loads(path.read_text())["results"]) + "\n" == path.with_suffix(".md").read_text()
