"""The notebook for newcomers runs, and is stored with its outputs."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_stored_probabilities_are_those_of_the_weights_in_the_package(capsys):
    pytest.importorskip("matplotlib")
    exec("".join(CELLS[0]["source"]), {})  # noqa: S102
    stored = "".join(line for output in CELLS[0]["outputs"] for line in output["text"])
    found, expected = ([float(p) for p in re.findall(r"\d\.\d+", text)] for text in (capsys.readouterr().out, stored))
    assert len(found) == 14
    assert found == pytest.approx(expected, abs=0.015)  # rounding to two digits, on other processors


@pytest.mark.integration
def test_notebook_runs(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", pyplot.close)
    names = {"__name__": "notebook"}
    for number, cell in enumerate(CELLS):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)  # noqa: S102
    assert names["loaded"].label_names == tuple(names["labels"])
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    assert names["auroc"](names["logits"], names["test_set"].targets).min() > 0.8  # reopened, at the size of training
