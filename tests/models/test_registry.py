"""The registry: every model by name, at full size on the meta device, without computation."""

import pytest
import timm
import torch

import causalcxr
from causalcxr.models import registry

NAMES = causalcxr.list_models()
BACKBONES = {name: backbone or "resnet26d" for name, (backbone, _) in registry.MODELS.items()}
STRIDES = {"causal_swin_tiny": 32}  # models that cannot be dilated


def _arguments(name):
    return {"device": "meta"} | ({"backbone": "resnet26d"} if name == "causal_timm" else {})


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return causalcxr.create_model(request.param, **_arguments(request.param))


def test_the_table_is_what_is_registered():
    """On a mismatch, timm returns a cfg with 1000 classes instead of raising an error."""
    assert set(NAMES) == set(registry.MODELS) == set(registry.default_cfgs)
    assert set(NAMES) == set(timm.list_models(module="registry")) == set(timm.list_models("causal_*"))
    assert set(NAMES) < set(registry.__all__)
    for name in NAMES:
        assert getattr(registry, name) is timm.models.model_entrypoint(name)
        assert registry.is_model(name)
        assert registry.is_model(f"{name}.untrained")
    assert causalcxr.list_models("resnet*") == []
    assert causalcxr.list_pretrained() == ["causal_efficientnet_lite0.nih11k"]


def test_backbone_is_the_one_of_timm(model):
    name = model.pretrained_cfg["architecture"]
    backbone = timm.create_model(BACKBONES[name], num_classes=0, device="meta")
    expected = backbone.state_dict()
    shapes = {key: tensor.shape for key, tensor in model.backbone.state_dict().items()}
    assert shapes.items() <= {key: tensor.shape for key, tensor in expected.items()}.items()
    # Only layers between the last feature map and the classifier may be missing.
    left_out = {key.split(".")[0] for key in expected.keys() - shapes.keys()}
    assert left_out <= {"conv_head", "bn2", "head"}
    assert model.reduction == STRIDES.get(name, 16)
    assert model.head.feature_learning.in_chs == backbone.feature_info[-1]["num_chs"]


def test_cfg_describes_the_model(model):
    cfg, parameters = model.pretrained_cfg, dict(model.named_parameters())
    assert cfg["num_classes"] == model.num_classes == 14
    assert ("label_names" in cfg) == ("file" in cfg)  # names belong to weights
    assert cfg["input_size"][0] == model.in_chans == 3
    (stem,) = cfg["first_conv"]
    assert parameters[f"{stem}.weight"].shape[1] == 3
    images = timm.get_pretrained_cfg(BACKBONES[cfg["architecture"]])
    assert (cfg["mean"], cfg["std"]) == (images.mean, images.std)
    # All parameters whose shape depends on the labels, and no others.
    other = dict(
        causalcxr.create_model(name := cfg["architecture"], num_classes=5, **_arguments(name)).named_parameters()
    )
    by_label = {name for name, parameter in parameters.items() if parameter.shape != other[name].shape}
    assert by_label == {name for name in parameters if name.rpartition(".")[0] in cfg["classifier"]}


def test_labels_and_channels(model):
    name = model.pretrained_cfg["architecture"]
    other = causalcxr.create_model(name, num_classes=5, in_chans=1, **_arguments(name))
    assert (other.num_classes, other.pretrained_cfg["input_size"][0]) == (5, 1)
    with torch.no_grad():
        assert other(torch.empty(2, 1, 64, 64, device="meta")).shape == (2, 5)
