import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import causalcxr
import export_weights
import train_nih
from causalcxr.metrics import auroc
from recipe import Config, build_dataset
from scoring import predict


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
    again = auroc(predict(model.eval(), dataset, config, "again")["causal"], dataset.targets)
    reported = [figures["auroc"] for figures in manifest["test"]["labels"].values()]
    np.testing.assert_allclose(again, reported, atol=1e-4)

    text = Path(f"{stem}.md").read_text()
    assert "Not for clinical use" in text
    assert "Noise with bright squares." in text
    assert f"**{manifest['test']['mean_auroc']:.3f} (" in text
    assert not list(tmp_path.rglob("*.partial"))


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"norm\.weight does not fit in half precision: it reaches 100000"):
        export_weights.half({"norm.weight": torch.tensor([1.0, -1e5])})
