"""Creating models by name, and the errors for invalid names, options and images."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import causalcxr


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("rad_dino", ValueError, r"it is a backbone; create_model\('causal_timm', backbone='rad_dino'\)"),
        ("causal_resnet19", ValueError, "unknown model 'causal_resnet19'; close names: causal_resnet18"),
        ("resnet18", ValueError, r"it is a backbone; create_model\('causal_timm', backbone='resnet18'\)"),
        ("owner/repo", ValueError, "Use 'hf-hub:owner/repo' to load from the Hub or 'local-dir:owner/repo'"),
        ("causal_resnet18.nih14", ValueError, "'causal_resnet18' has no tag 'nih14'; its tags: untrained"),
        ("sv", ValueError, r"create_model\(Path\('sv'\)\) or 'local-dir:sv'"),
        (18, TypeError, "name must be a string or a Path, but got int"),
        (Path("no_such_folder"), FileNotFoundError, "no_such_folder/config.json"),
        ("causal_timm", ValueError, r"needs the name of a timm model, e.g. create_model\('causal_timm', backbone="),
    ],
)
def test_names_that_do_not_fit(name, error, message, tmp_path, monkeypatch):
    (tmp_path / "sv").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        causalcxr.create_model(name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "test_resnt"}, ValueError, "unknown backbone .*; close names: (?!.*causal_).*test_resnet"),
        ({"label_names": []}, ValueError, r"one name for each of the labels, but got \[\]; pass a list"),
        ({"label_names": {"a", "b"}}, ValueError, "but got {.*}; pass a list"),
        ({"label_names": "Mass"}, ValueError, "but got 'Mass'; pass a list"),
        ({"label_names": ["Mass", "Mass"]}, ValueError, "label_names must be unique, but 'Mass' occurs 2 times"),
        ({"backbone": "causal_resnet18"}, ValueError, "'causal_resnet18' is a causal model itself"),
        ({"backbone": 18}, TypeError, "backbone must be the name of a timm model, but got int"),
        ({"in_chans": 0}, ValueError, "in_chans must be at least 1, but got 0"),
        ({"pretrained_backbone": "no_such_file"}, FileNotFoundError, "no file of backbone weights at no_such_file"),
        ({"features_only": True, "feature_cls": "fx"}, ValueError, "feature_cls must be 'getter', .* but got 'fx'"),
        ({"pretrained": True}, ValueError, "no weights are published for .*; models with weights: causal_efficientnet"),
        ({"pretrained": True, "checkpoint_path": "own.pth"}, ValueError, "pass pretrained=False with it"),
        ({"drop_path": 0.1}, TypeError, "unexpected keyword argument 'drop_path'"),
        ({"img_size": 64}, TypeError, "ResNet.__init__.. got an unexpected keyword argument 'img_size'"),
    ],
)
def test_options_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        causalcxr.create_model("causal_test_resnet", **options)


def test_options_reach_the_model():
    options = {"dim": 32, "num_heads": 2, "depth": 3, "complement": "paper", "combine": "cat", "drop_rate": 0.5}
    model = causalcxr.create_model("causal_test_resnet", **options)
    attention = model.head.decoder.layers[0].attn
    assert (model.head_hidden_size, len(model.head.decoder.layers), attention.num_heads) == (32, 3, 2)
    assert (attention.complement, model.head.intervention.combine, model.head.drop.p) == ("paper", "cat", 0.5)


def test_names_of_labels_say_how_many_there_are(tmp_path):
    names = np.array(["Mass", "Nodule"])
    for given in (names, list(names)):
        model = causalcxr.create_model("causal_test_resnet", label_names=given)
        assert (model.num_classes, model.label_names) == (2, ("Mass", "Nodule"))
        assert {type(name) for name in model.label_names} == {str}
        causalcxr.save_pretrained(model, tmp_path, label_names=given)
    model = causalcxr.create_model("causal_efficientnet_lite0", pretrained=True, label_names=["Mass", "Nodule"])
    assert (model.num_classes, len(model.calibration.thresholds)) == (2, 2)


@pytest.mark.parametrize("name", ["causal_vit_small_patch16", "causal_swin_tiny"])
@pytest.mark.parametrize("size", [448, (448, 384)])
def test_image_size_reaches_backbones_that_know_it(name, size):
    model = timm.create_model(name, img_size=size, device="meta")
    sides = (size, size) if isinstance(size, int) else size
    assert tuple(model.backbone.patch_embed.img_size) == sides
    assert model.pretrained_cfg["input_size"] == (3, *sides)
    assert model(torch.zeros(2, 3, *sides, device="meta")).shape == (2, 14)


@pytest.mark.parametrize(("options", "size"), [({}, 160), ({"img_size": 64}, 64)])
def test_backbone_built_for_one_size_uses_its_own_or_the_given_one(tmp_path, options, size):
    model = causalcxr.create_model("causal_timm", backbone="test_vit", dim=32, num_heads=4, **options).eval()
    film = model.preprocess(torch.rand(1, 80, 80))
    assert film.shape == (1, 3, size, size)
    causalcxr.save_pretrained(model, tmp_path)
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(film), model(film))


@pytest.mark.parametrize("in_chans", [3, 1])
@pytest.mark.parametrize("name", ["causal_test_resnet", "causal_resnet18"])  # channels scaled alike, or not
def test_transform_of_timm_does_what_preprocess_does(name, in_chans, tmp_path, caplog):
    """Up to timm's rounding to 8 bits after each axis, for a non-square film, also for a model from a folder."""
    model = causalcxr.create_model(name, in_chans=in_chans, pretrained_cfg_overlay={"input_size": (3, 96, 96)})
    causalcxr.save_pretrained(model, tmp_path)
    film = Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 120), dtype=np.uint8))
    for each in (model, timm.create_model(f"local-dir:{tmp_path}", pretrained=True)):
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(each))
        given = transform(film if in_chans == 1 else film.convert("RGB"))[None]
        atol = 1.01 / 255 / min(each.pretrained_cfg["std"])
        torch.testing.assert_close(given, model.preprocess(film), rtol=0, atol=atol)
    assert caplog.records == []


def test_rate_of_stochastic_depth():
    def rates(rate):
        model = causalcxr.create_model("causal_swin_tiny", device="meta", drop_path_rate=rate)
        return [module.drop_prob for module in model.modules() if hasattr(module, "drop_prob")]

    assert max(rates(None)) == pytest.approx(0.1)  # Swin's own
    assert rates(0.0) == []
    assert max(rates(0.4)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 1, 64, 64), ValueError, r"images must have shape .*, C=3, but got \(2, 1, 64, 64\)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), TypeError, "images must be a floating-point .* torch.uint8"),
        (torch.full((2, 3, 64, 64), 255.0), ValueError, r"images must be normalised, within \+-20, but reach 255"),
        (torch.full((2, 3, 64, 64), float("nan")), ValueError, "images must be normalised, .* but reach nan"),
    ],
)
def test_images_that_do_not_fit(small, images, error, message):
    model = small("causal_test_resnet")
    for forward in (model, model.forward_intermediates):
        with pytest.raises(error, match=message):
            forward(images)
