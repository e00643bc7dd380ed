"""The registry: every model by its name, at its full size on the meta device, where nothing is computed."""

import importlib
import pkgutil
from typing import Any

import pytest
import timm
import torch

import causalcxr
from causalcxr import CausalCXR, CausalOutput
from causalcxr.data import NIH_LABELS

NAMES = causalcxr.list_models()
# The backbone of each model, its stride and the channels of its feature map.
BACKBONES = {
    "causal_convnext_base": ("convnext_base", 16, 1024),
    "causal_convnext_small": ("convnext_small", 16, 768),
    "causal_convnext_tiny": ("convnext_tiny", 16, 768),
    "causal_densenet121": ("densenet121", 16, 1024),
    "causal_efficientnet_lite0": ("tf_efficientnet_lite0", 16, 320),
    "causal_efficientnetv2_s": ("tf_efficientnetv2_s", 16, 256),
    "causal_resnet18": ("resnet18", 16, 512),
    "causal_resnet34": ("resnet34", 16, 512),
    "causal_resnet50": ("resnet50", 16, 2048),
    "causal_resnet101": ("resnet101", 16, 2048),
    "causal_resnet152": ("resnet152", 16, 2048),
    "causal_swin_tiny": ("swin_tiny_patch4_window7_224", 32, 768),
    "causal_test_resnet": ("test_resnet", 16, 96),
    "causal_timm": ("resnet26d", 16, 2048),
    "causal_vit_base_patch16": ("vit_base_patch16_224", 16, 768),
    "causal_vit_small_patch16": ("vit_small_patch16_224", 16, 384),
}
MODULES = [
    importlib.import_module(f"causalcxr.models.{info.name}")
    for info in pkgutil.iter_modules(causalcxr.models.__path__)
    if not info.name.startswith("_") and info.name not in ("causal_cxr", "causal_head")
]


def _arguments(name: str) -> dict[str, Any]:
    return {"device": "meta"} | ({"backbone": "resnet26d"} if name == "causal_timm" else {})


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> CausalCXR:
    return causalcxr.create_model(request.param, **_arguments(request.param))


def _images(size: int, in_chans: int = 3) -> torch.Tensor:
    return torch.empty(2, in_chans, size, size, device="meta")


def test_every_registered_model_has_a_known_backbone() -> None:
    assert set(NAMES) == set(BACKBONES)


def test_both_factories_build_the_same(model: CausalCXR) -> None:
    name = model.pretrained_cfg["architecture"]
    other = timm.create_model(name, **_arguments(name))
    assert type(model) is type(other) is CausalCXR
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in other.state_dict().items()}
    assert model.pretrained_cfg == other.pretrained_cfg


def test_backbone_is_the_one_of_timm(model: CausalCXR) -> None:
    name, stride, channels = BACKBONES[model.pretrained_cfg["architecture"]]
    expected = timm.create_model(name, num_classes=0, device="meta").state_dict()
    shapes = {key: tensor.shape for key, tensor in model.backbone.state_dict().items()}
    assert shapes.items() <= {key: tensor.shape for key, tensor in expected.items()}.items()
    # Only layers between the last feature map and the classifier are left out.
    left_out = {key.split(".")[0] for key in expected.keys() - shapes.keys()}
    assert left_out <= {"conv_head", "bn2", "head"}
    assert model.reduction == stride
    assert model.head.feature_learning.in_chs == channels


def test_cfg_describes_the_model(model: CausalCXR) -> None:
    cfg, parameters = model.pretrained_cfg, dict(model.named_parameters())
    assert cfg["num_classes"] == model.num_classes == 14
    assert cfg["label_names"] == list(NIH_LABELS)
    assert cfg["input_size"][0] == model.in_chans == 3
    assert cfg["pool_size"] == tuple(size // model.reduction for size in cfg["input_size"][1:])
    assert len(cfg["first_conv"]) == 1
    for name in cfg["first_conv"]:
        assert parameters[f"{name}.weight"].shape[1] == 3
    # All parameters whose shape depends on the labels, and no others.
    by_label = {name for name, parameter in parameters.items() if parameter.shape[0] == 14}
    assert by_label == {name for name in parameters if name.rpartition(".")[0] in cfg["classifier"]}


def test_images_are_scaled_as_the_weights_of_the_backbone_expect(model: CausalCXR) -> None:
    cfg = timm.get_pretrained_cfg(BACKBONES[model.pretrained_cfg["architecture"]][0])
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]) == (cfg.mean, cfg.std)


def test_variant_is_the_name(model: CausalCXR, request: pytest.FixtureRequest) -> None:
    assert model.pretrained_cfg["architecture"] == request.node.callspec.params["model"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_cfgs_are_keyed_by_the_entry_points(module: Any) -> None:
    """timm answers a mismatch with a cfg of 1000 classes instead of an error."""
    base = module.__name__.rpartition(".")[2]
    entry_points = timm.list_models(module=base)
    assert set(module.default_cfgs) == set(entry_points)
    assert isinstance(module.__all__, list)
    assert not hasattr(timm.models, base)  # else both would share one group in the registry


def test_every_model_is_in_one_of_the_modules() -> None:
    assert sorted(name for module in MODULES for name in module.default_cfgs) == sorted(NAMES)


@pytest.mark.parametrize("size", [512, 1024])
def test_sizes_of_radiographs(model: CausalCXR, size: int) -> None:
    with torch.no_grad():
        output = model.forward_causal(_images(size), need_attention=True)
    features, cells = (2, 14, model.head_hidden_size), size // model.reduction
    shapes = CausalOutput((2, 14), (2, 14), (2, 1, 14), features, features, (2, 14, cells, cells))
    assert [tuple(tensor.shape) for tensor in output] == list(shapes)


def test_every_parameter_of_the_full_size_has_a_gradient(model: CausalCXR) -> None:
    model.zero_grad()
    output = model.forward_causal(_images(64))
    (output.logits.sum() + output.confounder_logits.sum() + output.intervened.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("num_classes", "in_chans"), [(5, 1), (0, 3)])
def test_labels_and_channels(model: CausalCXR, num_classes: int, in_chans: int) -> None:
    name = model.pretrained_cfg["architecture"]
    other = causalcxr.create_model(name, num_classes=num_classes, in_chans=in_chans, **_arguments(name))
    assert (other.num_classes, other.in_chans) == (num_classes, in_chans)
    with torch.no_grad():
        assert other(_images(64, in_chans=in_chans)).shape == (2, num_classes or other.head_hidden_size)


def test_device_reaches_every_tensor(model: CausalCXR) -> None:
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_names_of_weights_that_exist() -> None:
    expected = ["causal_efficientnet_lite0.nih10k"]
    assert causalcxr.list_pretrained() == causalcxr.list_models(pretrained=True) == expected
