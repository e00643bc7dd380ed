"""Backbones from timm: their weights, strides and feature maps."""

import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, utils
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import causalcxr
from causalcxr import CausalCXR
from causalcxr.models.backbone import check_feature_map, create_backbone, feature_map

close_session = getattr(utils, "close_session", None) or utils.reset_sessions  # by version of the client


def _images(*size: int, in_chans: int = 3) -> Tensor:
    return torch.randn(2, in_chans, *(size or (64, 64)), generator=torch.Generator().manual_seed(0))


def _checkpoint(path: Path, name: str = "test_resnet", change: Callable[[dict[str, Tensor]], Any] = len) -> Path:
    """Save the weights of a timm model as its users do, with its classifier."""
    state_dict = timm.create_model(name, num_classes=7).state_dict()
    change(state_dict)
    save_file(state_dict, path / f"{name}.safetensors")
    return path / f"{name}.safetensors"


@pytest.mark.parametrize("in_chans", [3, 1])
@pytest.mark.parametrize("output_stride", [16, 32])
def test_imagenet_weights(shared_weights: Path, in_chans: int, output_stride: int) -> None:
    """Equal to the model that timm loads; one channel is worth three equal ones, since the stem is summed."""
    path = shared_weights / "tf_efficientnet_lite0.in1k.safetensors"
    expected = timm.create_model("tf_efficientnet_lite0", checkpoint_path=path, output_stride=output_stride).eval()
    model = causalcxr.create_model(
        "causal_efficientnet_lite0", in_chans=in_chans, output_stride=output_stride, pretrained_backbone=path
    ).eval()
    images = _images(96, 128, in_chans=in_chans)
    with torch.no_grad():
        maps = feature_map(model.backbone, images)
        reference = expected.forward_intermediates(images.expand(-1, 3, -1, -1), indices=1, intermediates_only=True)
    assert maps.shape[2:] == (96 // output_stride, 128 // output_stride)
    torch.testing.assert_close(maps, reference[-1], rtol=1e-4, atol=1e-4)


def test_imagenet_weights_do_not_fit_another_network(shared_weights: Path) -> None:
    path = shared_weights / "tf_efficientnet_lite0.in1k.safetensors"
    with pytest.raises(ValueError, match=r"efficientnet_lite0.in1k.safetensors do not fit the backbone 'resnet18'"):
        causalcxr.create_model("causal_resnet18", pretrained_backbone=path)


@pytest.mark.parametrize("in_chans", [3, 1])
@pytest.mark.parametrize("as_type", [str, Path])
def test_weights_from_a_file(tmp_path: Path, as_type: type, in_chans: int) -> None:
    path = _checkpoint(tmp_path)
    model = causalcxr.create_model("causal_test_resnet", in_chans=in_chans, pretrained_backbone=as_type(path)).eval()
    expected = timm.create_model("test_resnet", num_classes=7, checkpoint_path=path, output_stride=16).eval()
    images = _images(in_chans=in_chans)
    torch.testing.assert_close(
        feature_map(model.backbone, images),
        expected.forward_intermediates(images.expand(-1, 3, -1, -1), indices=1, intermediates_only=True)[-1],
        rtol=1e-4,
        atol=1e-5,
    )
    assert "state_dict" not in model.backbone.pretrained_cfg


def test_weights_without_a_classifier(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, change=lambda weights: [weights.pop(f"fc.{kind}") for kind in ("weight", "bias")])
    causalcxr.create_model("causal_test_resnet", pretrained_backbone=path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("test_resnet", lambda weights: weights.pop("layer3.0.conv1.weight")),
        ("test_resnet", lambda weights: weights.update(other=torch.zeros(2))),
        ("test_resnet", lambda weights: weights.update({"layer3.0.conv1.weight": torch.zeros(2)})),
        ("test_efficientnet", len),
        ("test_vit", len),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, name: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """No layer keeps the weights that it was drawn with."""
    path = _checkpoint(tmp_path, name, change)
    with pytest.raises(ValueError, match=f"{name}.safetensors do not fit the backbone 'test_resnet': "):
        causalcxr.create_model("causal_test_resnet", pretrained_backbone=path)


def test_file_of_weights_that_is_missing() -> None:
    with pytest.raises(FileNotFoundError, match="no file of backbone weights at no_such_file"):
        causalcxr.create_model("causal_test_resnet", pretrained_backbone="no_such_file")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "tf_efficientnetv2_s", "convnext_tiny"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_stride_of_the_map_is_the_one_asked_for(name: str, output_stride: int) -> None:
    backbone, channels, stride = create_backbone(name, output_stride=output_stride)
    with torch.no_grad():
        x = feature_map(backbone.to("meta"), torch.empty(2, 3, 128, 192, device="meta"))
    assert stride == output_stride
    assert x.shape == (2, channels, 128 // stride, 192 // stride)


@pytest.mark.parametrize(
    ("name", "native", "asked"),
    [
        ("resnet18", 32, 4),
        ("densenet121", 32, 4),
        ("densenet121", 32, 5),
        ("densenet121", 32, 64),
        ("swin_tiny_patch4_window7_224", 32, 16),
        ("vit_small_patch16_224", 16, 8),
    ],
)
def test_stride_that_cannot_be_had(name: str, native: int, asked: int) -> None:
    message = f"backbone '{name}' has a stride of {native} pixels and cannot be built with output_stride={asked}"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_backbone(name, output_stride=asked)


def _densenet(**kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """Return a backbone for the head and timm's model with the same weights."""
    backbone, *_ = create_backbone("densenet121", backbone_args={"block_config": (1, 2, 3, 3)}, **kwargs)
    reference = timm.create_model("densenet121", num_classes=0, block_config=(1, 2, 3, 3))
    reference.load_state_dict(backbone.state_dict(), strict=True)
    return backbone.eval(), reference.eval()


def test_densenet_at_its_own_stride_is_the_one_of_timm() -> None:
    backbone, reference = _densenet(output_stride=32)
    torch.testing.assert_close(feature_map(backbone, _images()), reference.forward_features(_images()))


def test_dilated_densenet_sees_the_pixels_of_the_plain_one() -> None:
    """At cells that both have, a dilated block reads the same pixels, but for the average pooling traded in."""
    dilated, reference = _densenet(output_stride=16)
    for name, module in reference.named_modules():
        if name == "features.transition3.pool":
            assert isinstance(module, nn.AvgPool2d)
    reference.features.transition3.pool = _EverySecondCell()
    images = _images(128, 96)
    with torch.no_grad():
        torch.testing.assert_close(feature_map(dilated, images)[..., ::2, ::2], reference.forward_features(images))


class _EverySecondCell(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2]


def test_tokens_of_a_vision_transformer_are_laid_out_as_its_patches(small: Callable[..., CausalCXR]) -> None:
    model = small("causal_vit_small_patch16").eval()
    reference = timm.create_model("vit_small_patch16_224", num_classes=0, depth=2, dynamic_img_size=True).eval()
    reference.load_state_dict(model.backbone.state_dict(), strict=True)
    tokens = reference.forward_features(_images(64, 96))[:, 1:]
    expected = tokens.transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(feature_map(model.backbone, _images(64, 96)), expected)


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (3, 2)])
def test_patch_changes_its_own_cell_most(small: Callable[..., CausalCXR], cell: tuple[int, int]) -> None:
    backbone = small("causal_vit_small_patch16").eval().backbone
    row, column = (16 * position for position in cell)
    images = _images(64, 96)
    changed = images.clone()
    changed[..., row : row + 16, column : column + 16] += 1
    with torch.no_grad():
        change = (feature_map(backbone, changed) - feature_map(backbone, images)).norm(dim=1)
    assert change.flatten(1).argmax(dim=1).tolist() == [cell[0] * 6 + cell[1]] * 2


def test_images_are_padded_to_whole_patches(small: Callable[..., CausalCXR]) -> None:
    model = small("causal_vit_small_patch16").eval()
    padded = nn.functional.pad(_images(70, 90), (0, 6, 0, 10))
    torch.testing.assert_close(model(_images(70, 90)), model(padded))


def test_map_of_a_swin_transformer_is_the_one_of_timm(small: Callable[..., CausalCXR]) -> None:
    model = small("causal_swin_tiny").eval()
    arguments = {"depths": (1, 1, 2, 2), "strict_img_size": False}
    reference = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **arguments).eval()
    reference.load_state_dict(model.backbone.state_dict(), strict=True)
    expected = reference.forward_features(_images(96, 160)).permute(0, 3, 1, 2)
    torch.testing.assert_close(feature_map(model.backbone, _images(96, 160)), expected)


def test_backbone_that_gives_no_final_map() -> None:
    with pytest.raises(ValueError, match=r"'hiera_tiny_224' yields no feature map \(normalization of features"):
        causalcxr.create_model("causal_timm", backbone="hiera_tiny_224", device="meta")


def test_backbone_without_intermediate_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("timm.models.ResNet.prune_intermediate_layers")
    with pytest.raises(ValueError, match=r"backbone 'test_resnet' yields no feature map \(.*prune_intermediate_layers"):
        causalcxr.create_model("causal_timm", backbone="test_resnet")


@pytest.mark.parametrize(("shape", "declared"), [((2, 4, 8), 8), ((2, 4, 6, 6), 8)])
def test_backbone_whose_map_is_not_the_declared_one(shape: tuple[int, ...], declared: int) -> None:
    message = f"backbone 'other' yields no feature map .* instead of .B, {declared}, H, W.*use a convolutional network"
    with pytest.raises(ValueError, match=message):
        check_feature_map(_model(shape, declared))


def test_parameters_that_no_map_depends_on_are_frozen() -> None:
    """Those of HRNet's finer maps, say: a distributed wrapper would wait for their gradients."""
    model = _model((2, 4, 6, 6), 4)
    check_feature_map(model, img_size=(32, 48))
    trained = {name: p.requires_grad for name, p in model.backbone.named_parameters()}
    assert trained == {"used": True, "unused": False}
    assert model.backbone.used.device.type == "cpu"


def _model(shape: tuple[int, ...], declared: int) -> Any:
    """Return what the check looks at, with a map of a given shape."""
    backbone = _Returns(shape)
    backbone.feature_info = [{"num_chs": declared, "reduction": 16}]
    return SimpleNamespace(backbone=backbone, in_chans=3)


class _Returns(nn.Module):
    """A backbone with a map of a given shape."""

    pretrained_cfg = MappingProxyType({"input_size": (3, 32, 32), "architecture": "other"})

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.used, self.unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward_intermediates(self, x: Tensor, **_: Any) -> list[Tensor]:
        return [self.used * x.new_ones(self.shape)]


def test_published_weights_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Within seconds, where the client would try again and again; from the cache without asking."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    close_session()
    start = time.monotonic()
    message = (
        "timm's weights of 'resnet18' are not in the cache, and http://127.0.0.1:1 cannot .* give the path of a file"
    )
    with pytest.raises(ConnectionError, match=message):
        causalcxr.create_model("causal_resnet18", pretrained_backbone=True)
    assert time.monotonic() - start < 10
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    _checkpoint(tmp_path, change=lambda w: w.update({"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}))
    (tmp_path / "test_resnet.safetensors").rename(folder / "snapshots" / "abc" / "model.safetensors")
    expected = load_file(folder / "snapshots" / "abc" / "model.safetensors")
    model = causalcxr.create_model("causal_test_resnet", pretrained_backbone=True)
    assert torch.equal(model.backbone.conv1[0].weight, expected["conv1.0.weight"])
    close_session()
