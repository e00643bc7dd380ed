"""The benchmarks: yardsticks that compute what the library computes, and runs on small sizes."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import compare, measuring, modes, predict, yardsticks
from causalcxr import create_model
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from reference.comparison import EXACT, normal, randomised

RESULTS = Path(compare.__file__).parent / "results"


@pytest.mark.parametrize(("num_heads", "window"), [(2, 7), (1, 11)])
def test_unfolded_acmix_agrees(num_heads: int, window: int) -> None:
    layer = randomised(ACmix(3, 4, num_heads=num_heads, attn_kernel_size=window))
    for size in ((8, 9), (32, 32)):
        x = normal(2, 3, *size)
        torch.testing.assert_close(layer(x), yardsticks.unfolded_acmix(layer, x), **EXACT)


@pytest.mark.parametrize("complement", ["normalized", "paper"])
def test_materialised_attention_agrees(complement: str) -> None:
    layer = randomised(DisentangledCrossAttention(6, num_heads=3, complement=complement))
    inputs = normal(2, 4, 6), normal(2, 9, 6, seed=2)
    torch.testing.assert_close(layer(*inputs), yardsticks.materialised_attention(layer, *inputs), **EXACT)
    torch.testing.assert_close(layer(*inputs).causal, yardsticks.one_branch_attention(layer, *inputs), **EXACT)


def test_looped_intervention_agrees() -> None:
    layer = randomised(BackdoorIntervention(3, 5))
    inputs = normal(4, 3, 5), normal(6, 3, 5, seed=2)
    torch.testing.assert_close(layer(*inputs), yardsticks.looped_intervention(layer, *inputs), **EXACT)


def test_published_design_agrees_with_the_library_at_the_same_width() -> None:
    theirs = yardsticks.published_design("causal_test_resnet", dim=32).eval()
    ours = create_model("causal_test_resnet", num_classes=15, combine="cat", dim=32).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.forward_causal(images), theirs.forward_causal(images), rtol=1e-4, atol=1e-5)


def test_sides_are_timed_in_turns() -> None:
    ran: list[str] = []
    times = measuring.in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, rounds=2)
    changes = [name for name, before in zip(ran, [None, *ran], strict=False) if name != before]
    assert changes == ["a", "b", "a"]  # each round in the reversed order of the one before
    assert [len(took) for took in times.values()] == [2, 2]
    row = measuring.ratio({"a": [2.0, 9.0, 40.0], "b": [1.0, 3.0, 10.0]}, "a", "b")
    assert row == {"ratio": 3.0, "quartiles": [2.0, 4.0], "seconds": {"a": 9.0, "b": 3.0}}


def test_peak_of_tensors_is_what_is_held_at_once() -> None:
    kept = []

    def run() -> None:
        kept.clear()
        kept.append(torch.zeros(1024, 1024))
        torch.zeros(2048, 1024)  # freed at once, twice
        torch.zeros(2048, 1024)

    assert measuring.peak_memory(run) == pytest.approx(12 * 2**20, rel=0.01)


def test_rows_are_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = partial(torch.ones, 1000)
    row = partial(compare.compared, run, run, faster=True, rounds=2)
    monkeypatch.setitem(compare.ROWS, "acmix", ("this | that", row))
    command = ["--rows", "acmix", f"--json={tmp_path / 'results.json'}"]
    compare.main(command)
    printed, written = capsys.readouterr().out, (tmp_path / "results.json").read_text()
    assert "| this; that |" in printed
    assert json.loads(written)["results"]["this | that"]["memory_ratio"] == 1
    compare.main(command)
    assert capsys.readouterr().out == printed
    assert (tmp_path / "results.json").read_text() == written
    assert (tmp_path / "results.md").read_text() == printed


def test_modes_agree_and_checkpointing_saves_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "modes.json"
    small = ["--model=causal_test_resnet", "--size=128", "--batch=2", "--rounds=1", f"--json={target}"]
    modes.main([*small, "--modes", "contiguous", "bfloat16", "checkpointed"])
    rows = json.loads(target.read_text())["results"]
    assert rows["contiguous"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["memory_ratio"] < 1
    assert 1e-5 < rows["bfloat16"]["gradients_error"] < 0.5
    assert "| checkpointed |" in capsys.readouterr().out


def test_batched_scoring_is_compared_with_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "DIFFERENT", 1)
    target = tmp_path / "predict.json"
    small = ["--model=causal_test_resnet", "--random", "--films=2", "--side=128", "--rounds=1", f"--json={target}"]
    predict.main(small)
    rows = json.loads(target.read_text())["results"]
    assert all(rows[format]["difference"] < 1e-4 for format in ("PNG", "JPEG"))
    assert capsys.readouterr().out.count("| **") == 2


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_results(path: Path) -> None:
    module = {"compare": compare, "modes": modes, "predict": predict}[path.stem.split("_")[0]]
    assert module.table(json.loads(path.read_text())["results"]) + "\n" == path.with_suffix(".md").read_text()
