"""What `save_pretrained` writes and what it refuses."""

import dataclasses
import inspect
import json
import logging
import os
import stat

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import causalcxr
from causalcxr import Calibration, CausalCXR, hub
from causalcxr.data import NIH_LABELS


def _config(folder):
    return json.loads((folder / "config.json").read_text())


def test_config_can_hold_every_argument_of_a_causal_model():
    arguments = set(inspect.signature(CausalCXR).parameters) - {"pretrained_backbone", "device", "dtype"}
    assert arguments | {"img_size"} == hub.CAUSAL_ARGS


def test_nothing_else_is_written_and_all_may_read_it(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    (folder.parent / "other").touch()
    assert modes == {stat.S_IMODE((folder.parent / "other").stat().st_mode)}


def test_data_config_says_what_the_model_was_trained_on(model, tmp_path):
    data = {"input_size": (3, 128, 160), "mean": (0.1, 0.2, 0.3), "std": (0.2,), "crop_pct": 0.9}
    causalcxr.save_pretrained(model, tmp_path, data_config=data)
    cfg = causalcxr.create_model(tmp_path).pretrained_cfg
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ((3, 128, 160), (0.1, 0.2, 0.3), (0.2,) * 3)
    assert cfg["crop_pct"] == 0.9
    assert model.pretrained_cfg["input_size"] == (3, 96, 96)  # the model itself is unchanged


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json"])
def test_saving_that_breaks_off(model, images, tmp_path, monkeypatch, broken):
    """At the first file, the old model stays. Between the two files, the mixture is detected."""
    causalcxr.save_pretrained(model, tmp_path)
    other = causalcxr.create_model("causal_test_resnet", **timm.models.get_model_args(model))
    replace = os.replace

    def fail(source, target):
        if target.name == broken:
            raise OSError("no space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            causalcxr.save_pretrained(other, tmp_path)
    if broken == "model.safetensors":
        assert torch.equal(causalcxr.create_model(tmp_path).eval()(images), model(images))
    else:
        with pytest.raises(ValueError, match=r"is damaged or does not belong to its config.json"):
            causalcxr.create_model(tmp_path)


# --- labels and calibration


def test_outputs_that_have_names_keep_them(model, tmp_path):
    """Otherwise the output for Atelectasis would be named Hernia after loading."""
    with pytest.raises(ValueError, match=r"in this order: Atelectasis,.* but got \('Hernia'"):
        causalcxr.save_pretrained(model, tmp_path / "saved", label_names=NIH_LABELS[::-1])
    with pytest.raises(ValueError, match="in this order"):
        model.label_names = NIH_LABELS[::-1]
    assert not (tmp_path / "saved").exists()


def test_names_come_from_weights_or_from_the_caller(folder, tmp_path):
    """Fourteen labels are not always those of NIH."""
    other = causalcxr.create_model(folder)
    other.reset_classifier(14)
    assert (other.label_names, other.calibration) == (None, None)
    causalcxr.save_pretrained(other, tmp_path)
    assert causalcxr.create_model(tmp_path).label_names is None
    causalcxr.save_pretrained(other, tmp_path, label_names=NIH_LABELS[::-1])
    assert causalcxr.create_model(tmp_path).label_names == NIH_LABELS[::-1]
    with pytest.raises(ValueError, match="label_names must be one name for each of 14 labels, but got "):
        other.label_names = list(range(14))


@pytest.mark.parametrize("plain", [False, True])
def test_calibration_goes_when_the_weights_change(folder, plain, images, tmp_path, caplog):
    if plain:
        folder, model = tmp_path / "plain", timm.create_model("test_resnet", num_classes=14)
        causalcxr.save_pretrained(model, folder, calibration=Calibration(1.5, [0.25] * 14))
    model = causalcxr.create_model(folder, label_names=NIH_LABELS).to(memory_format=torch.channels_last)
    causalcxr.save_pretrained(model, tmp_path / "same")
    assert causalcxr.create_model(tmp_path / "same").calibration == model.calibration == Calibration(1.5, [0.25] * 14)
    assert caplog.records == []
    optimizer = torch.optim.SGD([next(model.parameters())], lr=1e-4)  # in the backbone; the head is unchanged
    model(images).sum().backward()
    optimizer.step()
    with caplog.at_level(logging.WARNING, "causalcxr"):
        causalcxr.save_pretrained(model, tmp_path / "trained")
    assert causalcxr.create_model(tmp_path / "trained").calibration is None
    assert "the weights have changed" in caplog.text
    model.calibration = Calibration(2.0, [0.5] * 14)  # fitted again
    causalcxr.save_pretrained(model, tmp_path / "again")
    assert causalcxr.create_model(tmp_path / "again").calibration == Calibration(2.0, [0.5] * 14)
    if not plain:  # for plain models, setting the attribute leaves no record
        optimizer.step()
        causalcxr.save_pretrained(model, tmp_path / "trained on")
        assert causalcxr.create_model(tmp_path / "trained on").calibration is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"calibration": Calibration(1, [0.5])}, ValueError, "a threshold for each of 14 labels, but has 1"),
        ({"calibration": [0.5] * 14}, TypeError, r"must be a causalcxr.Calibration, but got list"),
        ({"data_config": {"size": 128}}, ValueError, "data_config may only have input_size, .*, but got size"),
        ({"data_config": {"std": (0.0,)}}, ValueError, "input_size and std must be positive"),
        ({"metrics": {"data": "NIH", "split": "test"}}, ValueError, "must have data, split and auroc, but lack auroc"),
    ],
)
def test_descriptions_that_do_not_fit(model, tmp_path, options, error, message):
    if calibration := options.get("calibration"):
        with pytest.raises(error, match=message):
            model.calibration = calibration
    with pytest.raises(error, match=message):
        causalcxr.save_pretrained(model, tmp_path / "saved", **options)
    assert not (tmp_path / "saved").exists()


def test_models_that_cannot_be_saved(model, tmp_path):
    """A wrapper, even if it forwards all attributes as `torch.compile` does, and models not built by a factory."""
    maps = timm.create_model("test_resnet", features_only=True)
    for other in (torch.compile(model), CausalCXR("test_resnet", dim=32), maps):
        with pytest.raises(ValueError, match=rf"only models from .* but got {type(other).__name__}; .*model.module"):
            causalcxr.save_pretrained(other, tmp_path)
    special = causalcxr.create_model("causal_test_resnet", backbone_args={"act_layer": nn.SiLU})
    with pytest.raises(ValueError, match=r"arguments of the model cannot be stored as JSON .*act_layer"):
        causalcxr.save_pretrained(special, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_that_were_compiled_or_pruned(tmp_path):
    part = causalcxr.create_model("causal_test_resnet")
    part.backbone = torch.compile(part.backbone, backend="eager")
    causalcxr.save_pretrained(part, tmp_path / "compiled")
    loaded = causalcxr.create_model(tmp_path / "compiled")
    assert all(map(torch.equal, loaded.state_dict().values(), part.state_dict().values()))
    pruned = causalcxr.create_model("causal_test_resnet")
    prune.l1_unstructured(pruned.get_classifier(), "weight", 0.5)
    with pytest.raises(ValueError, match=r"'head.causal_classifier.weight_orig': call torch.nn.utils.prune.remove"):
        causalcxr.save_pretrained(pruned, tmp_path / "pruned")


# --- the card


def test_card_has_the_figures_that_are_given(model, metrics, tmp_path):
    """Without figures, a card written by hand stays."""
    (tmp_path / "README.md").write_text("mine")
    causalcxr.save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    metrics["command"] = "python train.py --epochs 2"
    calibration = Calibration(1.2345, [0.25, *[k / 14 for k in range(13)]])
    causalcxr.save_pretrained(model, tmp_path, metrics=metrics, calibration=calibration)
    card = ModelCard.load(tmp_path / "README.md")
    results = {result.metric_name: result for result in card.data.eval_results}
    assert set(results) == {"AUROC, mean", *(f"AUROC, {name}" for name in NIH_LABELS[:13])}  # Hernia has none
    for result in results.values():
        assert (result.dataset_name, result.dataset_type) == ("NIH ChestX-ray14", "nih-chestx-ray14")
        assert (result.dataset_split, result.metric_type) == ("test", "roc_auc")
    assert (results["AUROC, mean"].metric_value, results["AUROC, Mass"].metric_value) == (0.7, 0.64)
    assert (card.data.library_name, card.data.license) == ("causalcxr", None)
    for said in (
        "**Not for clinical use.**",
        "| mean | 0.700 (0.650, 0.750) |",
        "| Mass | 0.640, 9 positive images of 7 patients |",
        "NIH ChestX-ray14, test, images: 1492, patients: 300, seed: 5, commit: abc",
        "```bash\npython train.py --epochs 2\n```",
        "with temperature 1.23, ",
        "| Mass | 0.214 |",
        "96 x 96 px",
    ):
        assert said in card.text


def test_licence_is_that_of_the_weights(tmp_path, monkeypatch):
    """It is known for weights from timm and ours. For others, the user has to set it."""
    weights, cfg = tmp_path / "w.safetensors", timm.get_pretrained_cfg("test_resnet")
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    ours, timms = {"name": "causal_efficientnet_lite0"}, {"pretrained_backbone": True}
    known = dataclasses.replace(cfg, license="cc-by-nc-4.0", hf_hub_id=None, file=str(weights))
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "test_resnet", known)
    for expected, options in (
        (None, ours),
        (None, {"pretrained_backbone": weights}),
        ("mit", {"pretrained_backbone": weights, "pretrained_cfg_overlay": {"license": "mit"}}),
        ("cc-by-nc-4.0", timms),
        ("apache-2.0", ours | timms | {"pretrained": True}),
    ):
        model = causalcxr.create_model(**({"name": "causal_test_resnet"} | options))
        causalcxr.save_pretrained(model, tmp_path / "saved", metrics={"data": "a", "split": "b", "auroc": {}})
        assert ModelCard.load(tmp_path / "saved" / "README.md").data.license == expected, options
        assert causalcxr.create_model(tmp_path / "saved").pretrained_cfg.get("license") == expected
    assert causalcxr.create_model(tmp_path / "saved", pretrained=False).pretrained_cfg.get("license") is None


# --- plain models of timm


def test_plain_model_comes_back(tmp_path):
    model = timm.create_model("test_vit", num_classes=14, img_size=96, in_chans=1).eval()
    about = {"label_names": NIH_LABELS, "calibration": Calibration(1.5, (0.25,) * 14)}
    causalcxr.save_pretrained(model, tmp_path, data_config={"input_size": (1, 96, 96)}, **about)
    loaded = causalcxr.create_model(tmp_path, label_names=NIH_LABELS).eval()
    assert loaded.pretrained_cfg["input_size"] == (1, 96, 96)
    assert (loaded.label_names, loaded.calibration) == (NIH_LABELS, about["calibration"])
    images = torch.randn(2, 1, 96, 96)
    for other in (loaded, timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()):
        assert torch.equal(other(images), model(images))
    causalcxr.save_pretrained(loaded, tmp_path / "again")
    assert _config(tmp_path / "again") == _config(tmp_path)
    torch.nn.init.zeros_(loaded.head.weight)
    loaded.calibration = Calibration(2.0, (0.5,) * 14)  # fitted again
    causalcxr.save_pretrained(loaded, tmp_path / "again")
    assert causalcxr.create_model(tmp_path / "again").calibration == loaded.calibration


def test_plain_model_with_other_arguments(tmp_path, caplog):
    model = timm.create_model("test_resnet", num_classes=14)
    causalcxr.save_pretrained(model, tmp_path, label_names=NIH_LABELS, calibration=Calibration(1.5, (0.25,) * 14))
    loaded = causalcxr.create_model(tmp_path, num_classes=2)
    assert (loaded.num_classes, loaded.label_names, loaded.calibration) == (2, None, None)
    assert "2 weights of test_resnet are newly initialised" in caplog.text
    assert torch.equal(loaded.conv1[0].weight, model.conv1[0].weight)
    untrained = causalcxr.create_model(tmp_path, pretrained=False)
    assert (untrained.num_classes, untrained.label_names) == (14, None)
    assert len(causalcxr.create_model(tmp_path, features_only=True)(torch.zeros(1, 3, 64, 64))) == 5
