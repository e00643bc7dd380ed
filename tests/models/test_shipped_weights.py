"""The weights that come with the package: whole, loaded without a network, and as good as their card says."""

import argparse
import hashlib
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import causalcxr
import evaluate
from causalcxr.data import NIH_LABELS, NIHChestXray14
from causalcxr.metrics import auroc

NAMES = causalcxr.list_pretrained()  # among them, as test_registry says, that of the default of the command line


def _weights(name):
    return Path(timm.get_pretrained_cfg(name).file)


def _manifest(name):
    return json.loads(_weights(name).with_suffix(".json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_file_is_the_one_of_its_manifest(name):
    path, manifest = _weights(name), _manifest(name)
    assert f"{manifest['model']}.{manifest['tag']}" == name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert path.stat().st_size < 10e6
    assert {value.dtype for value in load_file(path).values()} <= {torch.float16, torch.int64}
    cfg, size = timm.get_pretrained_cfg(name), manifest["config"]["image_size"]
    assert cfg.input_size == (3, size, size)
    assert cfg.label_names == manifest["label_names"] == list(NIH_LABELS)


@pytest.mark.parametrize("name", NAMES)
def test_calibration_is_that_of_the_manifest(name):
    expected = causalcxr.Calibration(**_manifest(name)["calibration"])
    assert len(set(expected.thresholds)) > 1
    assert causalcxr.create_model(name, pretrained=True).calibration == expected
    assert causalcxr.create_model(name, pretrained=True, in_chans=1).calibration == expected
    assert causalcxr.create_model(name, pretrained=True, in_chans=2).calibration is None  # other logits for one film
    assert causalcxr.create_model(name, pretrained=True, num_classes=3).calibration is None
    assert causalcxr.create_model(name).calibration is None


@pytest.mark.parametrize("create_model", [causalcxr.create_model, timm.create_model])
def test_weights_of_somebody_else_have_neither_names_nor_calibration(create_model, tmp_path):
    shutil.copy(_weights(NAMES[0]), tmp_path / "own.safetensors")
    overlay = {"file": str(tmp_path / "own.safetensors")}
    model = create_model(NAMES[0], pretrained=True, pretrained_cfg_overlay=overlay)
    assert (model.label_names, model.calibration, model.pretrained_cfg.get("license")) == (None, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_card_has_what_a_user_must_know(name):
    card, manifest = _weights(name).with_suffix(".md").read_text(), _manifest(name)
    assert card.startswith(f"# {name}\n\n**Not for clinical use.**")
    test = manifest["test"]
    low, high = test["interval"]
    assert f"**{test['mean_auroc']:.3f} ({low:.3f}, {high:.3f})**" in card
    assert f"Temperature {manifest['calibration']['temperature']:.3f};" in card
    for group, found in test["groups"].items():
        of_all = np.mean([test["labels"][label]["auroc"] for label in found["labels"]])
        row = [group, found["images"], len(found["labels"]), "{:.3f} ({:.3f}, {:.3f})", f"{of_all:.3f}"]
        assert " | ".join(map(str, row)).format(found["mean_auroc"], *found["interval"]) in card


@pytest.mark.parametrize("create_model", [causalcxr.create_model, timm.create_model])
def test_weights_load_without_a_network(create_model, monkeypatch):
    monkeypatch.delattr(socket, "socket")
    model = create_model("causal_efficientnet_lite0", pretrained=True).eval()
    expected = load_file(_weights("causal_efficientnet_lite0"))
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in expected.items())
    assert model(torch.randn(1, 3, 128, 128)).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reported_auroc_comes_out_again(name, shared_data):
    manifest = _manifest(name)
    dataset = NIHChestXray14(shared_data / "nih-10k", "test", image_size=manifest["config"]["image_size"])
    assert len(dataset) == manifest["test_images"]["images"]
    model = causalcxr.create_model(name, pretrained=True)
    args = argparse.Namespace(device="cpu", batch_size=32, workers=2)
    again = auroc(evaluate.predict(args, model, dataset), dataset.targets)
    reported = [figures["auroc"] for figures in manifest["test"]["labels"].values()]
    np.testing.assert_allclose(again, reported, atol=1e-3)
    assert abs(again.mean() - manifest["test"]["mean_auroc"]) < 1e-3
