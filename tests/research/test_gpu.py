"""The GPU program, in its small form on the CPU."""

import pytest

from gpu import run


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
