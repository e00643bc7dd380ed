"""The program for the GPU, in its small form on the CPU."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu import run
from gpu.recording import Record

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_small_form_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(run.__file__)), f"--output={tmp_path}", "--small", "--device=cpu"]
    result = subprocess.run([*command, "--commit=c0ffee"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in run.PARTS:
        part = json.loads((tmp_path / f"{name}.json").read_text())
        assert (part["commit"], part["seed"]) == ("c0ffee", 0)
        assert not [row for row in part["rows"] if "error" in row]
        assert f"| {part['rows'][-1]['name'].removesuffix(', time')} |" in result.stdout


def test_part_goes_on_where_a_step_fails_and_keeps_its_rows(tmp_path: Path) -> None:
    def bad(record: Record) -> None:
        record.row("before", "1 s", seconds=1)
        raise ValueError("no such card")

    args = argparse.Namespace(output=tmp_path, device="cpu", small=True, seed=0, commit="c0ffee")
    assert Record("a", args).run([bad, lambda record: record.row("after", "2 s")]) == 1
    before, failed, after = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (before["seconds"], after["shown"]) == (1, "2 s")
    assert "no such card" in failed["shown"]
    assert "raise ValueError" in failed["error"]
    assert Record("b", args).run([lambda record: record.row("wrong", "0.5 apart", met=False)]) == 1
    assert Record("b", args).run([lambda record: record.row("right", "0 apart")]) == 0


def test_exit_status_tells_of_a_failed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "good.py").write_text("")
    (tmp_path / "gpu" / "bad.py").write_text("1 / 0")
    monkeypatch.setattr(run, "RESEARCH", tmp_path)
    monkeypatch.setattr(run, "PARTS", ("good", "bad"))
    assert run.main([f"--output={tmp_path}", "--device=cpu", "--parts", "good"]) == 0
    assert run.main([f"--output={tmp_path}", "--device=cpu"]) == 1
