"""The program for the GPU, in its small form on the CPU, and the table of what it measured."""

import sys

import pytest

from gpu import run, table

RECORDS = run.REPOSITORY / "docs" / "results" / "gpu"


@pytest.mark.slow
def test_small_form_runs_on_a_cpu(tmp_path, capfd):
    assert run.main([f"--output={tmp_path}", "--small", "--device=cpu"]) == 0, capfd.readouterr()
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"correct.xml", "compare_gpu.json", "reading_gpu.json", "predict_gpu.json"}


def test_a_part_that_fails_is_told_and_the_next_one_runs(tmp_path, monkeypatch):
    def commands(output, *options):
        return {"correct": ["-c", "1 / 0"], "compare": ["-c", f"open({str(output / 'ran')!r}, 'w')"]}

    monkeypatch.setattr(run, "commands", commands)
    assert run.main([f"--output={tmp_path}", "--parts", "compare"]) == 0
    (tmp_path / "ran").unlink()
    assert run.main([f"--output={tmp_path}"]) == 1
    assert (tmp_path / "ran").exists()


def test_committed_table_is_that_of_the_records(monkeypatch, capsys):
    files = [str(RECORDS / f"{part}.json") for part in ("speed", "data", "loop")]
    monkeypatch.setattr(sys, "argv", ["table.py", *files])
    table.main()
    assert capsys.readouterr().out == (RECORDS / "table.md").read_text()
