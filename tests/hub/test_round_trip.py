"""Saving and loading weights in a folder, and errors for weights that do not fit."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import causalcxr
from causalcxr import CausalCXR
from reference.comparison import images


def test_same_model_comes_back_from_a_second_round_trip(model, folder, tmp_path):
    causalcxr.save_pretrained(causalcxr.create_model(folder), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    source = f"local-dir:{tmp_path}"
    opened = causalcxr.create_model(tmp_path), causalcxr.create_model(source)
    for copy in (*opened, timm.create_model(source, pretrained=True)):
        assert type(copy) is CausalCXR
        assert torch.equal(copy.eval()(images()), model(images()))


@pytest.mark.parametrize("num_classes", [5, 0])
def test_other_labels_and_channels_keep_all_other_weights(model, folder, num_classes, caplog):
    """Weights that depend on the labels are new, and named in a warning if there are labels."""
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=num_classes, in_chans=1)
    assert (loaded.num_classes, loaded.in_chans) == (num_classes, 1)
    assert (loaded.label_names, loaded.calibration) == (None, None)
    before, after = model.state_dict(), loaded.state_dict()
    stem = f"{model.pretrained_cfg['first_conv'][0]}.weight"
    before[stem] = before[stem].sum(dim=1, keepdim=True)
    of_labels = {name for name in before if name.startswith(model.pretrained_cfg["classifier"])}
    kept = after.keys() - of_labels
    assert kept == before.keys() - of_labels
    torch.testing.assert_close({name: after[name] for name in kept}, {name: before[name] for name in kept})
    said = [record.getMessage().partition("; train them: ") for record in caplog.records]
    if num_classes:
        [(reason, _, names)] = said
        assert reason.startswith("7 weights of causal_test_resnet are newly initialised, since")
        assert set(names.split(", ")) == of_labels
    else:
        assert said == []
    assert loaded(images(channels=1)).shape == (2, num_classes or 32)


def test_model_with_other_labels_and_channels_comes_back(tmp_path):
    model = causalcxr.create_model("causal_test_resnet", num_classes=5, in_chans=1)
    model.reset_classifier(3)  # the current number is saved
    causalcxr.save_pretrained(model.eval(), tmp_path)
    loaded = causalcxr.create_model(tmp_path).eval()
    assert (loaded.num_classes, loaded.in_chans) == (3, 1)
    x = images(channels=1)
    assert torch.equal(loaded(x), model(x))
    colour = causalcxr.create_model(tmp_path, in_chans=3).eval()
    torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("test_vit", {"backbone_args": {"dynamic_img_size": True}}), ("coat_lite_tiny", {"img_size": 64})],
)
def test_any_backbone_comes_back(tmp_path, backbone, options):
    """Including one that uses a layer twice, the second."""
    model = causalcxr.create_model("causal_timm", backbone=backbone, dim=32, num_heads=4, **options).eval()
    causalcxr.save_pretrained(model, tmp_path)
    assert torch.equal(causalcxr.create_model(tmp_path).eval()(images()), model(images()))
    gray, x = causalcxr.create_model(tmp_path, in_chans=1).eval(), images(channels=1)
    torch.testing.assert_close(gray(x), model(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "in_chans", "kept"),
    [((0.5, 0.5, 0.5), 1, True), ((0.4, 0.5, 0.6), 1, False), ((0.5, 0.5, 0.5), 4, False)],
)
def test_other_channels_keep_the_calibration_where_a_film_stays_the_same(tmp_path, caplog, mean, in_chans, kept):
    """Its logits change if the means of the channels differ, or with channels that a film does not have."""
    calibration, data = causalcxr.Calibration(2.0, (0.3,)), {"mean": mean, "std": (0.5, 0.5, 0.5)}
    model = causalcxr.create_model("causal_test_resnet", num_classes=1)
    causalcxr.save_pretrained(model, tmp_path, calibration=calibration, data_config=data)
    assert causalcxr.create_model(tmp_path, in_chans=in_chans).calibration == (calibration if kept else None)
    assert ("the calibration is left out" in caplog.text) != kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.causal_mlp.fc1.bias"), "head.causal_mlp.fc1.bias"),
        (lambda w: w.update(other=torch.zeros(2)), "other"),
    ],
)
def test_incomplete_weights_are_refused(folder, tmp_path, change, message):
    """For another number of labels, timm would leave missing layers randomly initialised."""
    state_dict = load_file(folder / "model.safetensors")
    change(state_dict)
    save_file(state_dict, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sha256": None}))  # as written by timm
    with pytest.raises(ValueError, match=f"do not fit 'local-dir:.*': .*{message}.* pass the arguments that"):
        causalcxr.create_model(tmp_path, num_classes=5)
