"""What `save_pretrained` writes, and refuses to write."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import causalcxr
from causalcxr import Calibration, CausalCXR
from causalcxr._config import MODEL_ARGS
from causalcxr.data import NIH_LABELS
from causalcxr.models._builder import ARCHITECTURE


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_config_says_all_that_rebuilds_the_model(folder: Path) -> None:
    config = _config(folder)
    cfg = config["pretrained_cfg"]
    assert config["architecture"] == "causal_test_resnet"
    assert (config["num_classes"], config["num_features"]) == (14, 48)
    assert config["label_names"] == list(NIH_LABELS)
    assert config["calibration"] == {"temperature": 1.5, "thresholds": [0.25] * 14}
    assert config["model_args"]["complement"] == "paper"
    assert config["model_args"]["backbone_args"] == {"channels": [16, 24, 32, 48]}
    assert (cfg["input_size"], cfg["pool_size"], cfg["mean"]) == ([3, 96, 96], [6, 6], [0.5] * 3)


def test_weights_are_those_of_the_model(model: CausalCXR, folder: Path) -> None:
    saved, expected = load_file(folder / "model.safetensors"), model.state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
    assert _config(folder)["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_nothing_else_is_written_and_all_may_read_it(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    (folder.parent / "other").touch()
    assert modes == {stat.S_IMODE((folder.parent / "other").stat().st_mode)}


def test_config_can_hold_every_argument_of_the_architecture() -> None:
    assert set(MODEL_ARGS) == {*ARCHITECTURE, "num_classes"}


@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_channels_are_the_true_ones(tmp_path: Path, in_chans: int) -> None:
    model = causalcxr.create_model("causal_test_resnet", in_chans=in_chans)
    causalcxr.save_pretrained(model, tmp_path)
    cfg, scale = _config(tmp_path)["pretrained_cfg"], [0.5] * in_chans
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ([in_chans, 96, 96], scale, scale)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (in_chans, 96, 96)
    assert loaded(torch.zeros(1, in_chans, 64, 64)).shape == (1, 14)


def test_data_config_says_what_the_model_was_trained_on(model: CausalCXR, tmp_path: Path) -> None:
    data = {"input_size": (3, 128, 160), "mean": (0.1, 0.2, 0.3), "std": (0.2,), "crop_pct": 0.9}
    causalcxr.save_pretrained(model, tmp_path, data_config=data)
    cfg = causalcxr.create_model(tmp_path).pretrained_cfg
    assert (cfg["input_size"], cfg["pool_size"]) == ([3, 128, 160], [8, 10])
    assert (cfg["mean"], cfg["std"], cfg["crop_pct"]) == ([0.1, 0.2, 0.3], [0.2] * 3, 0.9)
    assert model.pretrained_cfg["input_size"] == (3, 96, 96)  # the model itself is as it was


def test_names_and_calibration_of_the_model_are_kept(tmp_path: Path) -> None:
    model = causalcxr.create_model("causal_test_resnet", num_classes=2, label_names=("Mass", "Nodule"))
    model.calibration = Calibration(1 / 3, (0.1, 2 / 3))  # written with all digits
    causalcxr.save_pretrained(model, tmp_path / "first")
    loaded = causalcxr.create_model(tmp_path / "first")
    assert (loaded.label_names, loaded.calibration) == (("Mass", "Nodule"), model.calibration)
    causalcxr.save_pretrained(loaded, tmp_path / "same", label_names=["Mass", "Nodule"])
    assert causalcxr.create_model(tmp_path / "same").calibration == model.calibration
    causalcxr.save_pretrained(loaded, tmp_path / "others", label_names=["a", "b"])
    assert causalcxr.create_model(tmp_path / "others").calibration is None
    given = Calibration(2, torch.tensor([0.5, 1]))
    causalcxr.save_pretrained(loaded, tmp_path / "given", label_names=["a", "b"], calibration=given)
    loaded = causalcxr.create_model(tmp_path / "given")
    assert (loaded.label_names, loaded.calibration) == (("a", "b"), Calibration(2.0, (0.5, 1.0)))


def test_labels_without_names_do_not_become_those_of_nih(model: CausalCXR, tmp_path: Path) -> None:
    model = causalcxr.create_model("causal_test_resnet")
    model.reset_classifier(14)
    causalcxr.save_pretrained(model, tmp_path)
    assert causalcxr.create_model(tmp_path).label_names is None
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).label_names is None


def test_model_without_labels(images: Tensor, tmp_path: Path) -> None:
    model = causalcxr.create_model("causal_test_resnet", num_classes=0).eval()
    causalcxr.save_pretrained(model, tmp_path)
    assert torch.equal(causalcxr.create_model(tmp_path).eval()(images), model(images))


def test_any_memory_format(model: CausalCXR, images: Tensor, tmp_path: Path) -> None:
    other = causalcxr.create_model("causal_test_resnet").eval().to(memory_format=torch.channels_last)
    causalcxr.save_pretrained(other, tmp_path)
    torch.testing.assert_close(causalcxr.create_model(tmp_path).eval()(images), other(images))


def test_weights_are_kept_in_their_precision(tmp_path: Path) -> None:
    causalcxr.save_pretrained(causalcxr.create_model("causal_test_resnet", dtype=torch.bfloat16), tmp_path)
    assert {w.dtype for w in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16, torch.int64}


def test_place_of_backbone_weights_is_not_stored(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "backbone.pth")
    model = causalcxr.create_model("causal_test_resnet", pretrained_backbone=tmp_path / "backbone.pth")
    causalcxr.save_pretrained(model, tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    causalcxr.create_model(tmp_path / "saved", pretrained=False)


def test_broken_off_saving_leaves_what_was_there(
    model: CausalCXR, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causalcxr.save_pretrained(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("causalcxr.hub.sha256", full)
        with pytest.raises(OSError, match="no space left"):
            causalcxr.save_pretrained(causalcxr.create_model("causal_test_resnet"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_that_broke_off_between_the_files_is_noticed(
    model: CausalCXR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causalcxr.save_pretrained(model, tmp_path)
    replace = os.replace

    def weights_only(source: Path, target: Path) -> None:
        if target.name == "config.json":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", weights_only)
        with pytest.raises(KeyboardInterrupt):
            causalcxr.save_pretrained(causalcxr.create_model(tmp_path, num_classes=14, drop_rate=0.1).half(), tmp_path)
    with pytest.raises(
        ValueError, match=r"model.safetensors is damaged or was changed: .*save or copy the folder again"
    ):
        causalcxr.create_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_names": ["Mass"]}, "one name for each of 14 labels in 'label_names', but has .'Mass'"),
        ({"label_names": "abcdefghijklmn"}, "one name for each of 14 labels in 'label_names'"),
        ({"label_names": ["Mass"] * 14}, "one name for each of 14 labels in 'label_names'"),
        (
            {"calibration": Calibration(1, [0.5])},
            "0 to 1 for each of 14 labels in 'calibration.thresholds', but has .0.5",
        ),
        ({"data_config": {"size": 128}}, "data_config may have input_size, .*crop_mode, but has size"),
        ({"data_config": {"input_size": (1, 128, 128)}}, "Requested 1 input channels, but the model accepts 3"),
        ({"data_config": {"std": (0.0,)}}, "positive numbers in 'std'"),
    ],
)
def test_descriptions_that_do_not_fit(model: CausalCXR, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causalcxr.save_pretrained(model, tmp_path / "saved", **options)
    assert not (tmp_path / "saved").exists()


def test_calibration_that_is_none(model: CausalCXR, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"calibration must be a causalcxr.Calibration, but got dict"):
        causalcxr.save_pretrained(model, tmp_path / "saved", calibration={"temperature": 1, "thresholds": [0.5] * 14})
    assert not (tmp_path / "saved").exists()


def test_models_that_cannot_be_saved(model: CausalCXR, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"model must be a causalcxr.CausalCXR, but got Sequential; .*model.module"):
        causalcxr.save_pretrained(nn.Sequential(model), tmp_path)
    with pytest.raises(ValueError, match=r"only models from causalcxr.create_model can be saved, .*'causal_timm'"):
        causalcxr.save_pretrained(CausalCXR("test_resnet", dim=32, num_heads=4), tmp_path)
    special = causalcxr.create_model("causal_test_resnet", backbone_args={"act_layer": nn.SiLU})
    with pytest.raises(ValueError, match=r"arguments of the model cannot be stored as JSON .*act_layer"):
        causalcxr.save_pretrained(special, tmp_path)
    elsewhere = causalcxr.create_model("causal_test_resnet", backbone_args={"scriptable": True})
    with pytest.raises(ValueError, match=r"nothing in 'model_args.backbone_args' that chooses weights, .*'scriptable'"):
        causalcxr.save_pretrained(elsewhere, tmp_path)
    assert list(tmp_path.iterdir()) == []
