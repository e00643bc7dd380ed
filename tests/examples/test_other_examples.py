import pytest

import demo
import existing_loop


@pytest.mark.parametrize("extra", [[], ["--causal"]])
def test_existing_loop_learns(extra, capsys):
    existing_loop.main([*extra, "--steps=12"])
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.slow
def test_demo(tmp_path, capfd):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "log.jsonl").write_text("of the run before")
    demo.main([f"--output={tmp_path}", "--images=64", "--epochs=1"])
    assert "AUROC (95 % interval)" in capfd.readouterr().out
    assert len((tmp_path / "model" / "log.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "heatmaps.png").read_bytes().startswith(b"\x89PNG")
