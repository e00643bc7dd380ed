"""The weights in the package match the table and their card, and load without a network."""

import argparse
import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import causalcxr
import evaluate
from causalcxr import hub
from causalcxr.data import NIH_LABELS, NIHChestXray14, read_image
from causalcxr.metrics import auroc

NAMES = causalcxr.list_pretrained()  # test_registry checks that the command line's default is included


def _folder(name):
    return Path(timm.get_pretrained_cfg(name).file).parent


def _manifest(name):
    return json.loads((_folder(name) / "manifest.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_table_says_what_the_folder_has(name):
    folder, manifest, cfg = _folder(name), _manifest(name), timm.get_pretrained_cfg(name)
    assert folder.name == name
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 10e6
    assert {value.dtype for value in load_file(weights).values()} <= {torch.float16, torch.int64}
    config, _, _ = hub.read(f"local-dir:{folder}")
    assert cfg.input_size == config["input_size"] == (3, *[manifest["setting"]["image_size"]] * 2)
    assert tuple(cfg.label_names) == config["label_names"] == NIH_LABELS
    assert cfg.license == config["license"] == "apache-2.0"
    assert "dirty" not in manifest["commit"]
    card = (folder / "README.md").read_text()
    assert f"seed {manifest['seed']}, epoch {manifest['best_epoch']} of" in card
    for label, row in manifest["test"].items():
        assert "| {} | {value:.3f} ({low:.3f}, {high:.3f})".format(label, **row) in card


@pytest.mark.parametrize("name", NAMES)
def test_calibration_goes_with_labels_and_channels(name):
    expected = causalcxr.create_model(_folder(name)).calibration
    assert len(set(expected.thresholds)) > 1
    assert causalcxr.create_model(name, pretrained=True).calibration == expected
    assert causalcxr.create_model(name, pretrained=True, in_chans=1).calibration == expected
    assert causalcxr.create_model(name, pretrained=True, in_chans=2).calibration is None  # changes the logits of a film
    assert causalcxr.create_model(name, pretrained=True, num_classes=3).calibration is None
    assert causalcxr.create_model(name).calibration is None


def test_weights_of_somebody_else_have_neither_names_nor_calibration(tmp_path):
    shutil.copy(_folder(NAMES[0]) / "model.safetensors", tmp_path / "own.safetensors")
    overlay = {"file": str(tmp_path / "own.safetensors")}
    model = timm.create_model(NAMES[0], pretrained=True, pretrained_cfg_overlay=overlay)
    assert (model.label_names, model.calibration, model.pretrained_cfg.get("license")) == (None, None, None)


def test_weights_load_without_a_network_in_float32(monkeypatch):
    monkeypatch.delattr(socket, "socket")
    loaded = timm.create_model("causal_efficientnet_lite0", pretrained=True).state_dict()
    stored = load_file(_folder("causal_efficientnet_lite0") / "model.safetensors")
    expected = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reported_auroc_comes_out_again(name, shared_data):
    manifest = _manifest(name)
    dataset = NIHChestXray14(shared_data / "nih-10k", "test", image_size=manifest["setting"]["image_size"])
    assert len(dataset) == manifest["films"]["test"]
    model = causalcxr.create_model(name, pretrained=True)
    args = argparse.Namespace(device="cpu", batch_size=32, workers=2)
    again = dict(zip(NIH_LABELS, auroc(evaluate.predict(args, model, dataset), dataset.targets), strict=True))
    for label, row in manifest["test"].items():
        assert abs(row["value"] - again.get(label, np.mean(list(again.values())))) < 2e-3


@pytest.mark.slow
def test_scores_of_large_films_hardly_depend_on_their_storage(shared_data):
    model = causalcxr.create_model("causal_efficientnet_lite0", pretrained=True).eval()
    files = sorted((shared_data / "nih-1024").rglob("*.png"))
    films = [Image.fromarray((read_image(file)[0] * 255).round().byte().numpy()) for file in files]
    smaller = [film.resize((256, 256)) for film in films]

    def probabilities(of):
        with torch.inference_mode():
            return model.calibration.probabilities(torch.cat([model(model.preprocess(film)) for film in of]))

    def stored(film):
        file = io.BytesIO()
        film.save(file, "JPEG", quality=75)
        return Image.open(file)

    expected = probabilities(films)
    for changed in (smaller, map(stored, films), map(stored, smaller)):
        assert (probabilities(changed) - expected).abs().mean() < 0.03
