"""What is refused when a folder is loaded, and what is said of labels."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import causalcxr
from causalcxr import Calibration, CausalCXR
from causalcxr.data import NIH_LABELS

REORDERED = [NIH_LABELS[1], NIH_LABELS[0], *NIH_LABELS[2:]]
CLASSIFIERS = [
    "head.decoder.label_embed.weight",
    "head.causal_classifier.weight",
    "head.causal_classifier.bias",
    "head.confounder_classifier.weight",
    "head.confounder_classifier.bias",
    "head.intervention.classifier.weight",
    "head.intervention.classifier.bias",
]


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def _change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# --- labels


def test_new_weights_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "causalcxr"):
        model = causalcxr.create_model(folder, num_classes=5, in_chans=1)
    (record,) = (record for record in caplog.records if record.name.startswith("causalcxr."))
    said, _, names = record.getMessage().partition("; train them: ")
    assert said == (
        "7 weights of causal_test_resnet are new, since it has 5 labels and 1 channels, the weights 14 and 3"
    )
    assert names.split(", ") == CLASSIFIERS
    assert (model.label_names, model.calibration) == (None, None)


@pytest.mark.parametrize("options", [{}, {"in_chans": 1}, {"num_classes": 0}, {"pretrained": False}])
def test_nothing_is_said_where_no_weight_is_new(
    folder: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    causalcxr.create_model(folder, **options)
    assert [record for record in caplog.records if record.name.startswith("causalcxr")] == []


def test_names_and_calibration_come_with_the_weights(folder: Path) -> None:
    model = causalcxr.create_model(folder, label_names=NIH_LABELS)
    assert (model.label_names, model.calibration) == (NIH_LABELS, Calibration(1.5, (0.25,) * 14))
    untrained = causalcxr.create_model(folder, pretrained=False, label_names=REORDERED)  # it belongs to weights
    assert (untrained.label_names, untrained.calibration) == (tuple(REORDERED), None)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).label_names == NIH_LABELS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (REORDERED, "another order: position 0 is 'Cardiomegaly', expected 'Atelectasis'"),
        (NIH_LABELS[:13], "13 label names given, 14 expected: position 13 is missing, expected 'Hernia'"),
        (["Fracture", *NIH_LABELS[1:]], "label names differ: position 0 is 'Fracture', expected 'Atelectasis'"),
    ],
)
def test_labels_of_the_data_that_are_not_those_of_the_weights(folder: Path, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(folder, label_names=names)


def test_names_of_new_labels(folder: Path) -> None:
    assert causalcxr.create_model(folder, num_classes=2, label_names=["a", "b"]).label_names == ("a", "b")
    with pytest.raises(ValueError, match=r"label_names must be one name for each of 3 labels, but got \['a', 'b'\]"):
        causalcxr.create_model(folder, num_classes=3, label_names=["a", "b"])


def test_names_of_a_model(model: CausalCXR) -> None:
    assert CausalCXR("test_resnet", dim=32, num_heads=4).label_names == NIH_LABELS
    assert causalcxr.create_model("causal_test_resnet").label_names == NIH_LABELS
    other = causalcxr.create_model("causal_test_resnet", num_classes=3)
    assert other.label_names is None
    other.label_names = ["a", "b", "c"]
    assert other.label_names == ("a", "b", "c")
    other.reset_classifier(3)
    assert other.label_names is None
    for wrong in (["a", "b"], ["a", "b", "b"], "abc"):
        with pytest.raises(ValueError, match="label_names must be one name for each of 3 labels, but got "):
            other.label_names = wrong


def test_calibration_is_of_the_labels(folder: Path) -> None:
    model = causalcxr.create_model(folder)
    model.label_names = list(NIH_LABELS)
    assert model.calibration is not None
    model.label_names = REORDERED
    assert model.calibration is None
    model.calibration = Calibration(2.0, [0.5] * 14)
    model.reset_classifier(14)
    assert model.calibration is None
    model.calibration = Calibration(2.0, [0.5] * 14)
    model.label_names = REORDERED  # names for labels that had none
    assert model.calibration == Calibration(2.0, (0.5,) * 14)


def test_calibrations_that_do_not_fit(model: CausalCXR) -> None:
    with pytest.raises(ValueError, match="calibration must have a threshold for each of 14 labels, but has 2"):
        model.calibration = Calibration(1.0, (0.5, 0.5))
    with pytest.raises(TypeError, match=r"calibration must be a causalcxr.Calibration, but got list"):
        model.calibration = [0.5] * 14
    assert model.calibration is None


# --- a folder that somebody changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json of local-dir:.* is not JSON .*save or download it again"),
        ("{", "is not JSON"),
        ("[1]", r"must be an object with an 'architecture', but is \[1\]"),
        ("{}", r"must be an object with an 'architecture', but is {}"),
        ('{"architecture": 5}', "must be an object with an 'architecture'"),
        ('{"architecture": "causal_resnet19"}', "unknown model 'causal_resnet19'; close names: causal_resnet18"),
        ('{"architecture": "os.system"}', "unknown model 'os.system'"),
    ],
)
def test_config_that_is_none(copied: Path, text: str, message: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(copied)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("", "num_classes", "14", "'num_classes', of type int, but has '14'"),
        ("", "num_classes", True, "'num_classes', of type int, but has True"),
        ("", "num_classes", -1, "0 labels or more in 'num_classes', but has -1"),
        ("", "num_classes", 5, "the same number of labels everywhere, 5"),
        ("", "pretrained_cfg", None, "'pretrained_cfg', of type dict, but has None"),
        ("", "model_args", [1], r"an object in 'model_args', but has \[1\]"),
        ("", "label_names", NIH_LABELS[:5], "one name for each of 14 labels in 'label_names'"),
        ("", "label_names", dict.fromkeys(NIH_LABELS, 0), "one name for each of 14 labels in 'label_names'"),
        ("", "calibration", [0.5] * 14, "'temperature' and 'thresholds', and nothing else, in 'calibration'"),
        ("", "calibration", {"thresholds": [0.5] * 14}, "'temperature' and 'thresholds', and nothing else, in"),
        ("calibration", "bias", 0, "'temperature' and 'thresholds', and nothing else, in 'calibration'"),
        ("calibration", "temperature", 0, "a positive number in 'calibration.temperature', but has 0"),
        ("calibration", "temperature", float("inf"), "a positive number in 'calibration.temperature', but has inf"),
        ("calibration", "temperature", "1", "a positive number in 'calibration.temperature', but has '1'"),
        ("calibration", "thresholds", [0.5] * 13, "a number from 0 to 1 for each of 14 labels in 'calibration.thresh"),
        ("calibration", "thresholds", [2] * 14, "a number from 0 to 1 for each of 14 labels in 'calibration.thresh"),
        ("model_args", "dim", "32", "int in 'model_args.dim', but has '32'"),
        ("model_args", "drop_rate", float("nan"), "float in 'model_args.drop_rate', but has nan"),
        ("model_args", "backbone", ["resnet18"], "str in 'model_args.backbone'"),
        ("model_args", "backbone_args", "x", "dict in 'model_args.backbone_args'"),
        ("model_args", "pretrained_backbone", "/etc/passwd", "only these in 'model_args': .*'pretrained_backbone'"),
        ("model_args", "trust_remote_code", True, "only these in 'model_args': .*'trust_remote_code'"),
        (
            "model_args",
            "backbone_args",
            {"checkpoint_path": "x.pth"},
            "nothing .* that chooses weights, .*checkpoint_path",
        ),
        ("model_args", "backbone_args", {"pretrained": True}, "nothing .* that chooses weights, .*pretrained"),
        ("pretrained_cfg", "hf_hub_id", "other/repo", "nothing in 'pretrained_cfg' that leads to other weights"),
        ("pretrained_cfg", "url", "http://127.0.0.1/x.pth", "that leads to other weights, but has .'url'"),
        ("pretrained_cfg", "hf_hub_filename", "x.bin", "that leads to other weights, but has .'hf_hub_filename'"),
        ("pretrained_cfg", "custom_load", "hf", "that leads to other weights, but has .'custom_load'"),
        ("pretrained_cfg", "other", 1, "only what timm knows in 'pretrained_cfg', but has .'other'"),
        ("pretrained_cfg", "input_size", [3, 96], "three positive integers in 'input_size'"),
        ("pretrained_cfg", "input_size", [0, 96, 96], "three positive integers in 'input_size'"),
        ("pretrained_cfg", "input_size", 96, "three positive integers in 'input_size', but has 96"),
        ("pretrained_cfg", "mean", ["0.5"], "numbers in 'mean'"),
        ("pretrained_cfg", "std", [0.0], "positive numbers in 'std'"),
        ("pretrained_cfg", "first_conv", [1], "names in 'first_conv'"),
        ("pretrained_cfg", "first_conv", 1, "names in 'first_conv'"),
        ("pretrained_cfg", "classifier", 1, "in 'classifier', but has 1"),
        ("pretrained_cfg", "classifier", "head", "in 'classifier', but has 'head'"),
        ("pretrained_cfg", "classifier", None, "in 'classifier', but has None"),
    ],
)
def test_config_that_was_tampered_with(copied: Path, part: str, key: str, value: Any, message: str) -> None:
    _change_config(copied, lambda config: (config[part] if part else config).update({key: value}))
    with pytest.raises(ValueError, match=f"config.json of local-dir:.* must have .*{message}"):
        causalcxr.create_model(copied)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("model_args", "dim", 64, "weights do not fit 'causal_test_resnet': .* of another shape"),
        ("model_args", "backbone", "resnet18", "weights do not fit"),
        ("model_args", "backbone", "hf-hub:owner/repo", "unknown backbone 'hf-hub:owner/repo'"),
        ("model_args", "complement", "other", "complement must be one of"),
        ("pretrained_cfg", "input_size", [1, 96, 96], "weights do not fit 'causal_test_resnet': .*input_size"),
        ("pretrained_cfg", "first_conv", [], "weights do not fit"),
    ],
)
def test_config_of_another_model(copied: Path, part: str, key: str, value: Any, message: str) -> None:
    _change_config(copied, lambda config: (config[part] if part else config).update({key: value}))
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(copied, **({"in_chans": 1} if key == "first_conv" else {}))


def test_unknown_entries_beside_the_config_are_ignored(copied: Path) -> None:
    """Such as those that make other libraries run code."""
    (copied / "modeling.py").write_text("raise SystemExit('run')")
    (copied / "__init__.py").write_text("raise SystemExit('run')")
    _change_config(copied, lambda config: config.update(auto_map={"AutoModel": "modeling.Model"}))
    assert causalcxr.create_model(copied).num_classes == 14


def test_folder_that_timm_wrote(model: CausalCXR, images: torch.Tensor, tmp_path: Path) -> None:
    timm.models.save_for_hf(model, tmp_path, model_args=model.model_args, safe_serialization=True)
    loaded = causalcxr.create_model(tmp_path).eval()
    assert torch.equal(loaded(images), model(images))
    assert loaded.label_names == NIH_LABELS


def test_folder_of_a_plain_timm_model(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    message = (
        r"holds 'test_resnet', a model of timm, not a causal one; timm.create_model\('local-dir:.*', pretrained=True\)"
    )
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(tmp_path)


def test_folder_that_is_none(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=f"no config.json in {place}; causalcxr.save_pretrained writes"):
            causalcxr.create_model(place)
    with pytest.raises(ValueError, match="no model id / path after the 'local-dir:' prefix"):
        causalcxr.create_model("local-dir:")


# --- weights


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("create_model", [causalcxr.create_model, lambda p: timm.create_model(f"local-dir:{p}", True)])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "best.ckpt"])
def test_pickles_are_not_opened(copied: Path, name: str, create_model: Callable[[Path], Any]) -> None:
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(pickle.dumps(_Bomb()))
    message = rf"has {name} instead of model.safetensors: a pickle, .*torch.load\('{name}', weights_only=True\)"
    with pytest.raises(ValueError, match=message):
        create_model(copied)


def test_safetensors_are_preferred_to_pickles(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    assert causalcxr.create_model(copied).num_classes == 14


def test_weights_that_are_missing(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors in .*copied; causalcxr.save_pretrained writes"):
        causalcxr.create_model(copied)
    assert causalcxr.create_model(copied, pretrained=False).num_classes == 14


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: content + b"\0",
        lambda content: b"",
        lambda content: pickle.dumps(_Bomb()),
        lambda content: b"\xff" * 8 + content[8:],
    ],
    ids=["cut", "header", "longer", "empty", "pickle", "length"],
)
def test_damaged_weights(copied: Path, change: Callable[[bytes], bytes]) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    message = r"model.safetensors is damaged, or no safetensors file .*; save or copy the folder again"
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(copied)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged, or no safetensors file .*; restore it"):
        causalcxr.create_model("causal_test_resnet", True, pretrained_cfg_overlay={"file": str(path)})


def test_weights_of_another_folder(copied: Path) -> None:
    """They would load: shapes are the same."""
    weights = load_file(copied / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, copied / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"damaged or was changed: its SHA-256 sum is \w{64}, not \w{64}; save or copy"
    ):
        causalcxr.create_model(copied)
    _change_config(copied, lambda config: config.pop("sha256"))  # as timm writes it
    assert causalcxr.create_model(copied).num_classes == 14
