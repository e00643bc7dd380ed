"""The program for the GPU, in its small form on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu import run
from gpu.speed import largest_batch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_small_form_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(run.__file__)), f"--output={tmp_path}", "--small", "--device=cpu"]
    result = subprocess.run([*command, "--commit=c0ffee"], capture_output=True, text=True, cwd=ROOT, check=False)
    parts = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in run.DEFAULT}
    assert result.returncode == 0, result.stdout + result.stderr
    for part in parts.values():
        assert part["outcome"] == "ok"
        assert part["complete"]
        assert (part["commit"], part["seed"]) == ("c0ffee", 0)
        assert not [row for row in part["rows"] if "error" in row or "not reached" in row["shown"]]
        assert part["rows"][-1]["name"] in result.stdout
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"run.log", *(f"{part}.json" for part in parts)}


WRITE = 'import sys, pathlib, time; pathlib.Path(r\'{path}\').write_text(\'{{"part": "a", "rows": [1]}}\'); {rest}'


def _run(tmp_path: Path, code: str, seconds: float) -> dict:
    with open(tmp_path / "run.log", "a") as log:
        return run.run_part("a", [sys.executable, "-c", code], seconds, tmp_path, log)


def test_part_over_its_time_is_killed_with_its_children_and_keeps_its_rows(tmp_path: Path) -> None:
    child = "import time, pathlib; time.sleep(6); pathlib.Path(r'{}').write_text('alive')".format(tmp_path / "alive")
    rest = f'import subprocess; subprocess.Popen([sys.executable, "-c", {child!r}]); time.sleep(60)'
    result = _run(tmp_path, WRITE.format(path=tmp_path / "a.json", rest=rest), 3)
    assert result["outcome"] == "killed after 3 s"
    assert result["rows"] == [1]
    assert json.loads((tmp_path / "a.json").read_text()) == result
    time.sleep(4)
    assert not (tmp_path / "alive").exists()


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("raise ValueError('no such card')", "failed with status 1"), ("pass", "wrote nothing")],
)
def test_part_that_fails_says_why(tmp_path: Path, code: str, outcome: str) -> None:
    result = _run(tmp_path, code, 30)
    assert result["outcome"] == outcome
    assert ("no such card" in run.as_table(result)) == ("no such card" in code)


def test_exit_status_tells_of_a_failed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = "import sys; open(sys.argv[1].split('=')[1] + '/{}.json', 'w').write('{{\"part\": \"{}\", \"rows\": []}}')"
    parts = {"good": (("-c", write.format("good", "good")), 30), "bad": (("-c", "1 / 0"), 30)}
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run, "DEFAULT", ("good",))
    assert run.main([f"--output={tmp_path}", "--device=cpu"]) == 0
    assert run.main([f"--output={tmp_path}", "--device=cpu", "--parts", "bad", "good=20"]) == 1
    assert (tmp_path / "good.json").exists()


def test_largest_batch_is_the_largest_multiple_that_fits() -> None:
    for limit in range(0, 70, 3):
        assert largest_batch(lambda batch: batch <= limit, step=4, limit=48) == min(limit // 4 * 4, 48)  # noqa: B023
