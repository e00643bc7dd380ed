import difflib
import inspect
import json
from pathlib import Path

import pytest
import torch

import demo
import evaluate_nih
import existing_loop
import scoring
import train_nih


def test_evaluates_two_checkpoints(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name, model in (("causal", "causal_test_resnet"), ("plain", "test_resnet")):
        train_nih.main([*options, "--epochs=1", f"--model={model}", f"--output={tmp_path / name}"])
    capsys.readouterr()
    target = tmp_path / "results" / "synthetic.json"
    checkpoints = [str(tmp_path / name / "best.pt") for name in ("causal", "plain")]
    common = ["--data=synthetic:200", f"--json={target}", "--resamples=20", "--device=cpu", "--workers=0"]
    evaluate_nih.main([*checkpoints, *common])
    printed = capsys.readouterr().out
    assert "| Atelectasis |" in printed
    assert "| mean, AP only |" in printed
    results = json.loads(target.read_text())["results"]
    causal = results["causal_test_resnet"]
    assert causal["images"] == 100
    assert causal["views"]["AP"]["images"] + causal["views"]["PA"]["images"] == 100
    low, high = causal["interval"]
    assert low < causal["mean_auroc"] < high
    assert causal["training"]["config"]["model"] == "causal_test_resnet"
    assert causal["difference_from_first"] == {"mean_auroc": 0.0, "interval": [0.0, 0.0]}
    plain = results["test_resnet"]
    assert plain["difference_from_first"]["mean_auroc"] == pytest.approx(
        plain["mean_auroc"] - causal["mean_auroc"], abs=2e-4
    )


def test_refuses_a_checkpoint_with_other_labels(tmp_path: Path, options: list[str]) -> None:
    train_nih.main([*options, "--epochs=1", f"--output={tmp_path}"])
    saved = torch.load(tmp_path / "best.pt", weights_only=True)
    saved["label_names"] = saved["label_names"][::-1]
    torch.save(saved, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="order"):
        scoring.load_checkpoint(tmp_path / "best.pt", "cpu")


@pytest.mark.parametrize("extra", [[], ["--causal"]])
def test_existing_loop_learns(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    existing_loop.main([*extra, "--steps=12"])
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_existing_loop_changes_five_lines() -> None:
    plain = inspect.getsource(existing_loop.plain).splitlines()[1:]
    causal = inspect.getsource(existing_loop.causal).splitlines()[1:]
    added = [line[2:] for line in difflib.ndiff(plain, causal) if line.startswith("+ ")]
    assert len(added) == 4  # and the import
    assert [line.rpartition("# + ")[2] for line in added] == ["2", "3", "4", "5"]


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main([f"--output={tmp_path}", "--images=64", "--epochs=1"])
    assert "AUROC (95 % interval)" in capsys.readouterr().out
    for name in ("heatmaps.png", "classifiers.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
