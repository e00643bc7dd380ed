import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import causalcxr
import export_onnx
from causalcxr.data.transforms import normalise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.fixture
def onnxruntime() -> Any:
    try:
        return export_onnx.onnx_runtime()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model with other labels and one channel."""
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", num_classes=2, in_chans=1, label_names=["Mass", "Nodule"])
    calibration = causalcxr.Calibration(1.5, (0.2, 0.7))
    causalcxr.save_pretrained(model, tmp_path / "saved", calibration=calibration)
    return tmp_path / "saved"


@pytest.mark.integration
def test_files_are_enough_to_predict(
    folder: Path, tmp_path: Path, onnxruntime: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    export_onnx.main([str(folder), f"--output={tmp_path / 'out'}", "--any-size"])
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert f"largest difference from PyTorch {facts['largest_difference']:.1e}" in capsys.readouterr().out
    assert facts["largest_difference"] <= 1e-4
    assert facts["images"]["shape"] == ["batch", 1, "height", "width"]
    assert facts["logits"]["label_names"] == ["Mass", "Nodule"]
    assert (facts["logits"]["temperature"], facts["logits"]["thresholds"]) == (1.5, [0.2, 0.7])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["model.json", "model.onnx"]

    model = causalcxr.create_model(folder).eval()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for size in ((96, 96), (64, 224)):
        films = torch.rand(2, 1, *size)
        prepared = (films.numpy() - facts["images"]["mean"]) / facts["images"]["std"]
        (logits,) = session.run(["logits"], {"images": prepared.astype("float32")})
        with torch.no_grad():
            expected = model(normalise(films, model.pretrained_cfg))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


@pytest.mark.integration
@pytest.mark.usefixtures("onnxruntime")
def test_shipped_weights_run_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export_onnx.main(["causal_efficientnet_lite0", "--output=exported"])
    (code,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    exec(code, {})  # noqa: S102  (our own page)
    assert "Atelectasis" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["causal_efficientnet_lite0", "causal_efficientnetv2_s", "causal_swin_tiny", "causal_test_resnet"]
)
def test_models_without_any_size_are_refused(name: str) -> None:
    model = causalcxr.create_model(name)
    if name == "causal_test_resnet":
        export_onnx.check_any_size(model)
    else:
        with pytest.raises(ValueError, match=f"--any-size is not for {name}: .* Export without --any-size"):
            export_onnx.check_any_size(model)


@pytest.mark.integration
@pytest.mark.usefixtures("onnxruntime")
def test_any_size_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--any-size is not for causal_efficientnet_lite0"):
        export_onnx.main(["causal_efficientnet_lite0", f"--output={tmp_path / 'out'}", "--any-size"])
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
@pytest.mark.usefixtures("onnxruntime")
def test_graph_that_disagrees_is_not_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "TOLERANCE", 0.0)
    monkeypatch.setattr(export_onnx, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"ONNX Runtime and PyTorch differ by nan, more than .*: nothing was written"):
        export_onnx.export(str(folder), tmp_path / "out", any_size=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"an export needs onnx: pip install 'causalcxr\[onnx\]'"):
        export_onnx.export("causal_test_resnet", tmp_path, any_size=False)
