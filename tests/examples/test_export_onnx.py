import json
import re
from pathlib import Path

import pytest
import torch

import causalcxr
from causalcxr.data import normalise

pytestmark = pytest.mark.integration
onnxruntime = pytest.importorskip("onnxruntime", reason="comes with causalcxr[onnx]")
pytest.importorskip("onnxscript", reason="comes with causalcxr[onnx]")
import export_onnx  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.fixture
def folder(tmp_path):
    """A saved model with other labels and one channel."""
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", num_classes=2, in_chans=1, label_names=["Mass", "Nodule"])
    calibration = causalcxr.Calibration(1.5, (0.2, 0.7))
    causalcxr.save_pretrained(model, tmp_path / "saved", calibration=calibration)
    return tmp_path / "saved"


def test_files_are_enough_to_predict(folder, tmp_path):
    export_onnx.main([str(folder), f"--output={tmp_path / 'out'}", "--any-size"])
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert facts["images"]["shape"] == ["batch", 1, "height", "width"]
    assert facts["logits"]["label_names"] == ["Mass", "Nodule"]
    assert (facts["logits"]["temperature"], facts["logits"]["thresholds"]) == (1.5, [0.2, 0.7])

    model = causalcxr.create_model(folder).eval()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for size in ((96, 96), (64, 224)):
        films = torch.rand(2, 1, *size)
        prepared = (films.numpy() - facts["images"]["mean"]) / facts["images"]["std"]
        (logits,) = session.run(["logits"], {"images": prepared.astype("float32")})
        with torch.no_grad():
            expected = model(normalise(films, model.pretrained_cfg))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


def test_shipped_weights_run_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export_onnx.main(["causal_efficientnet_lite0", "--output=exported"])
    (code,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    exec(code, {})  # noqa: S102  (our own page)
    assert "Atelectasis" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["causal_efficientnet_lite0", "causal_swin_tiny"])
def test_models_without_any_size_are_refused(name):
    with pytest.raises(SystemExit, match=f"--any-size does not work with {name}"):
        export_onnx.check_any_size(causalcxr.create_model(name))


def test_graph_that_disagrees_is_not_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(SystemExit, match="differ by nan"):
        export_onnx.main([str(folder), f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
