import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import causalcxr
import export_weights
import train_nih
from causalcxr.metrics import auroc, expected_calibration_error
from recipe import Config, build_dataset
from scoring import predict, score

# Of the few validation images, some labels have no positive one.
pytestmark = pytest.mark.filterwarnings("ignore:no (temperature|threshold) can be fitted:UserWarning")


def test_weights_reproduce_what_the_card_says(made_release: Path, tmp_path: Path) -> None:
    small = ["--image-size=64", "--batch-size=8", "--bank-size=12", "--workers=0", "--device=cpu", "--epochs=1"]
    train_nih.main([f"--data={made_release}", "--model=causal_test_resnet", f"--output={tmp_path / 'run'}", *small])
    about = ["--about=Noise with bright squares.", "--tag=made", f"--output={tmp_path / 'weights'}", "--resamples=10"]
    export_weights.main([str(tmp_path / "run" / "best.pt"), f"--data={made_release}", "--device=cpu", *about])

    stem = tmp_path / "weights" / "causal_test_resnet.made"
    weights, manifest = Path(f"{stem}.safetensors"), json.loads(Path(f"{stem}.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == manifest["sha256"]
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16, torch.int64}
    assert str(tmp_path) not in json.dumps(manifest)

    model = causalcxr.create_model("causal_test_resnet", pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    config = Config(data=str(made_release), image_size=64, device="cpu", workers=0)
    dataset = build_dataset(config, "test")
    logits = predict(model.eval(), dataset, config, "again")["causal"]
    again = auroc(logits, dataset.targets)
    reported = [figures["auroc"] for figures in manifest["test"]["labels"].values()]
    np.testing.assert_allclose(again, reported, atol=1e-4)

    scored = score(tmp_path / "run" / "best.pt", "val", "cpu", data=str(made_release))
    calibration = causalcxr.Calibration.fit(scored.headline, scored.dataset.targets, criterion="f1")
    assert causalcxr.Calibration(**manifest["calibration"]) == calibration
    error = expected_calibration_error(calibration.probabilities(scored.headline), scored.dataset.targets).mean()
    unchanged = expected_calibration_error(torch.from_numpy(scored.headline).sigmoid(), scored.dataset.targets).mean()
    assert manifest["val_calibration_error"]["after"] == pytest.approx(error, abs=6e-5)
    assert manifest["val_calibration_error"]["before"] == pytest.approx(unchanged, abs=6e-5)
    found = (torch.from_numpy(logits) / calibration.temperature).sigmoid() >= torch.tensor(calibration.thresholds)
    counted = {"found": float(found.sum()) / len(dataset), "present": float(dataset.targets.sum()) / len(dataset)}
    assert manifest["test"]["findings_an_image"] == pytest.approx(counted, abs=6e-3)

    text = Path(f"{stem}.md").read_text()
    assert f"Temperature {calibration.temperature:.3f};" in text
    assert "Not for clinical use" in text
    assert "Noise with bright squares." in text
    assert f"**{manifest['test']['mean_auroc']:.3f} (" in text
    assert not list(tmp_path.rglob("*.partial"))


def test_validation_images_of_another_split_are_refused(made_release: Path, tmp_path: Path) -> None:
    small = ["--image-size=64", "--batch-size=8", "--bank-size=12", "--workers=0", "--device=cpu", "--epochs=1"]
    common = [f"--data={made_release}", "--model=causal_test_resnet", f"--output={tmp_path / 'run'}"]
    train_nih.main([*common, *small])
    other = Path(shutil.copytree(made_release, tmp_path / "other"))
    names = (other / "train_val_list.txt").read_text().split()
    (other / "train_val_list.txt").write_text("\n".join(names[:14]) + "\n")
    with pytest.raises(ValueError, match=r"other has other validation images .*give the --data that it was trained on"):
        export_weights.export(tmp_path / "run" / "best.pt", str(other), "", "made", tmp_path, 10, "cpu")
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"norm\.weight does not fit in half precision: it reaches 100000"):
        export_weights.half({"norm.weight": torch.tensor([1.0, -1e5])})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model=test_resnet"], "only causal models trained on NIH images are published, not test_resnet on"),
        (["--complement=paper"], "trained with complement='paper', but create_model .*without --complement"),
        (["--output-stride=32"], "trained with output_stride=32, but create_model .*without --output-stride"),
    ],
)
def test_models_that_the_registry_would_build_otherwise_are_refused(
    made_release: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    small = ["--image-size=64", "--batch-size=8", "--bank-size=12", "--workers=0", "--device=cpu", "--epochs=1"]
    common = [f"--data={made_release}", "--model=causal_test_resnet", f"--output={tmp_path}"]
    train_nih.main([*common, *small, *extra])
    with pytest.raises(ValueError, match=message):
        export_weights.export(tmp_path / "best.pt", str(made_release), "", "made", tmp_path, 10, "cpu")
    assert not list(tmp_path.glob("*.safetensors"))
