"""Opening folders: what is refused, and how labels are handled."""

import json
import pickle

import pytest
import timm
import torch

import causalcxr
from causalcxr import Calibration
from causalcxr.data import NIH_LABELS


def _change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# --- labels


@pytest.mark.parametrize("names", [["Mass", "Edema"], ["atelectasis", *reversed(NIH_LABELS[1:])]])
def test_labels_that_the_weights_know_keep_their_logits(folder, names, images, tmp_path, caplog):
    """So do their other outputs, and the calibration if no label is new."""
    whole = causalcxr.create_model(folder).eval()
    whole.calibration = Calibration(1.5, [k / 20 for k in range(14)])
    causalcxr.save_pretrained(whole, tmp_path)
    model = causalcxr.create_model(tmp_path, label_names=names).eval()
    kept = [row for row, name in enumerate(names) if name in NIH_LABELS]
    rows = [NIH_LABELS.index(names[row]) for row in kept]
    torch.testing.assert_close(model(images)[:, kept], whole(images)[:, rows])
    ours, theirs = model.forward_causal(images), whole.forward_causal(images)
    torch.testing.assert_close(ours.intervened[..., kept], theirs.intervened[..., rows])
    torch.testing.assert_close(ours.confounder_logits[:, kept], theirs.confounder_logits[:, rows])
    if len(kept) == len(names):
        assert caplog.text == ""
        causalcxr.save_pretrained(model, tmp_path / "again")
        expected = Calibration(1.5, tuple(whole.calibration.thresholds[row] for row in rows))
        assert causalcxr.create_model(tmp_path / "again").calibration == model.calibration == expected
    else:
        assert model.calibration is None
        assert "'atelectasis' is not one of those, but 'Atelectasis' is; the rows of Hernia, Pleural" in caplog.text


def test_names_that_do_not_fit(folder):
    """The same labels in another order are a mistake, unless the weights are not loaded."""
    untrained = causalcxr.create_model(folder, pretrained=False, label_names=NIH_LABELS[::-1])
    assert (untrained.label_names, untrained.calibration) == (NIH_LABELS[::-1], None)
    with pytest.raises(ValueError, match="in this order"):
        causalcxr.create_model(folder, label_names=NIH_LABELS[::-1])
    with pytest.raises(ValueError, match=r"label_names must be one name for each of 3 labels, but got \['a', 'b'\]"):
        causalcxr.create_model(folder, num_classes=3, label_names=["a", "b"])


# --- a config that somebody changed


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_config_that_is_none(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json of local-dir:.* does not describe a supported model"):
        causalcxr.create_model(copied)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("", "architecture", "hf-hub:other/repo", "unknown architecture"),
        ("", "num_classes", "14", "num_classes must be an integer"),
        ("", "num_classes", -1, "num_classes must be an integer"),
        ("", "label_names", ["Mass"], "one name for each of 14 labels"),
        ("", "model_args", [1], "no attribute 'items'"),
        ("calibration", "temperature", 0, "temperature must be"),
        ("calibration", "thresholds", [0.5] * 13, "a threshold for each of 14 labels"),
        ("model_args", "checkpoint_path", "x.pth", "model_args must not have checkpoint_path"),
        ("model_args", "backbone_args", {"pretrained": True}, "model_args must not have pretrained"),
        ("pretrained_cfg", "input_size", [3, 96], "expected 3"),
        ("pretrained_cfg", "input_size", [0, 96, 96], "input_size and std must be positive"),
        ("pretrained_cfg", "std", [0.0], "input_size and std must be positive"),
    ],
)
def test_config_that_was_tampered_with(copied, part, key, value, message):
    _change_config(copied, lambda config: (config[part] if part else config).update({key: value}))
    with pytest.raises(ValueError, match=rf"config.json of .* does not describe a supported model: .*{message}"):
        causalcxr.create_model(copied)


def test_plain_config_that_was_tampered_with(tmp_path):
    causalcxr.save_pretrained(timm.create_model("test_resnet", num_classes=2), tmp_path)
    text = (tmp_path / "config.json").read_text()
    refused = {"checkpoint_path": "x.pth", "features_only": True}
    for name, value in {**refused, "cardinality": 5, "stem_type": [[]], "layers": [2, 1, 1, 1]}.items():
        (tmp_path / "config.json").write_text(text)
        _change_config(tmp_path, lambda config, name=name, value=value: config["model_args"].update({name: value}))
        message = f"model_args must not have {name}" if name in refused else "weights do not fit 'local-dir:.*': "
        with pytest.raises(ValueError, match=message):
            causalcxr.create_model(tmp_path)


def test_what_leads_to_other_weights_is_dropped(copied, model, images):
    other = {"hf_hub_id": "other/repo", "url": "http://127.0.0.1/x.pth", "custom_load": "hf", "unknown": 1}
    _change_config(copied, lambda config: config["pretrained_cfg"].update(other))
    assert torch.equal(causalcxr.create_model(copied).eval()(images), model(images))


def test_config_with_a_backbone_on_the_hub(copied):
    _change_config(copied, lambda config: config["model_args"].update(backbone="hf-hub:owner/repo"))
    with pytest.raises(ValueError, match="unknown backbone 'hf-hub:owner/repo'"):
        causalcxr.create_model(copied)


# --- weights


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("create_model", [causalcxr.create_model, lambda p: timm.create_model(f"local-dir:{p}", True)])
def test_neither_pickles_nor_code_are_opened(copied, create_model):
    (copied / "modeling.py").write_text("raise SystemExit('run')")
    _change_config(copied, lambda config: config.update(auto_map={"AutoModel": "modeling.Model"}))
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    create_model(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors in .*model.bin.*; pickles are never opened"):
        create_model(copied)
    assert causalcxr.create_model(copied, pretrained=False).num_classes == 14


@pytest.mark.parametrize("name", ["causal_test_resnet", "test_resnet"])
def test_folder_that_timm_wrote(tmp_path, name, images):
    """It has no SHA-256 sum, so damage is only noticed on reading."""
    model = timm.create_model(name, num_classes=2).eval()
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": ["a", "b"]}, safe_serialization=True)
    loaded = causalcxr.create_model(tmp_path).eval()
    assert torch.equal(loaded(images), model(images))
    assert (loaded.label_names, loaded.calibration) == (("a", "b"), None)
    with pytest.raises(ValueError, match="in this order: a, b"):
        causalcxr.create_model(tmp_path, label_names=["b", "a"])
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match=r"weights do not fit .* or use an undamaged file"):
        causalcxr.create_model(tmp_path)
