"""Backbones from timm: their weights, strides and feature maps."""

from types import MappingProxyType, SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import causalcxr
from causalcxr.models.backbone import check_feature_map, create_backbone, feature_map
from reference.comparison import images


def _checkpoint(path, without=()):
    """Save the weights of a timm model with its classifier, except for some."""
    weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file({name: weight for name, weight in weights.items() if name not in without}, path / "weights.safetensors")
    return path / "weights.safetensors"


def test_no_layer_silently_keeps_its_random_weights(tmp_path):
    path = _checkpoint(tmp_path, without=["layer3.0.conv1.weight"])
    with pytest.raises(ValueError, match=r"weights.safetensors do not fit the backbone 'test_resnet': .*layer3.0.conv1"):
        create_backbone("test_resnet", pretrained=path)


@pytest.mark.parametrize("in_chans", [3, 1])
def test_weights_from_a_file(tmp_path, in_chans):
    path = _checkpoint(tmp_path)
    model = causalcxr.create_model("causal_test_resnet", in_chans=in_chans, pretrained_backbone=str(path)).eval()
    expected = timm.create_model("test_resnet", num_classes=7, checkpoint_path=path, output_stride=16).eval()
    x = images(channels=in_chans)
    reference = expected.forward_intermediates(x.expand(-1, 3, -1, -1), indices=1, intermediates_only=True)
    torch.testing.assert_close(feature_map(model.backbone, x), reference[-1], rtol=1e-4, atol=1e-5)
    assert "state_dict" not in model.backbone.pretrained_cfg


def test_weights_without_a_classifier(tmp_path):
    create_backbone("test_resnet", pretrained=_checkpoint(tmp_path, without=["fc.weight", "fc.bias"]))


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("densenet121", 8), ("densenet121", 16), ("densenet121", 32), ("resnet18", 16)],
)
def test_stride_of_the_map_is_the_one_asked_for(name, output_stride):
    with torch.device("meta"):
        backbone, channels, stride = create_backbone(name, output_stride=output_stride)
        x = feature_map(backbone, torch.empty(2, 3, 64, 96))
    assert stride == output_stride
    assert x.shape == (2, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("name", "native", "asked"), [("resnet18", 32, 4), ("densenet121", 32, 64), ("vit_small_patch16_224", 16, 8)]
)
def test_stride_that_cannot_be_had(name, native, asked):
    message = f"a stride of {native} pixels and cannot be built with output_stride={asked}"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_backbone(name, output_stride=asked)


class _EverySecondCell(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2]


@pytest.mark.parametrize("output_stride", [32, 16])
def test_dilated_densenet_sees_the_pixels_of_the_plain_one(output_stride):
    """At shared cells, a dilated block reads the same pixels, except for the average pooling that it replaces."""
    blocks = {"block_config": (1, 2, 3, 3), "growth_rate": 8}
    backbone = create_backbone("densenet121", backbone_args=blocks, output_stride=output_stride)[0].eval()
    reference = timm.create_model("densenet121", num_classes=0, **blocks).eval()
    reference.load_state_dict(backbone.state_dict(), strict=True)
    if output_stride == 16:
        reference.features.transition3.pool = _EverySecondCell()
    x, step = images(128, 96), 32 // output_stride
    found = feature_map(backbone, x)[..., ::step, ::step]
    torch.testing.assert_close(found, reference.forward_features(x))


def test_tokens_of_a_vision_transformer_are_laid_out_as_its_patches(small):
    """Images are padded to a multiple of the patch size."""
    model = small("causal_vit_small_patch16").eval()
    arguments = {"depth": 2, "embed_dim": 96, "num_heads": 3, "dynamic_img_size": True}
    reference = timm.create_model("vit_small_patch16_224", num_classes=0, **arguments).eval()
    reference.load_state_dict(model.backbone.state_dict(), strict=True)
    tokens = reference.forward_features(images(64, 96))[:, 1:]
    expected = tokens.transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(feature_map(model.backbone, images(64, 96)), expected)
    padded = nn.functional.pad(images(70, 90), (0, 6, 0, 10))
    torch.testing.assert_close(model(images(70, 90)), model(padded))


def test_backbone_that_gives_no_final_map():
    with pytest.raises(ValueError, match="'hiera_tiny_224' yields no feature map"):
        causalcxr.create_model("causal_timm", backbone="hiera_tiny_224", device="meta")


@pytest.mark.filterwarnings("ignore:CSATv2 is designed for 3-channel")
def test_backbone_that_does_not_run_on_such_images():
    with pytest.raises(ValueError, match=r"'csatv2' does not run on images \(B, 1, 512, 512\): shape .* is invalid"):
        causalcxr.create_model("causal_timm", backbone="csatv2", in_chans=1, device="meta")


class _Returns(nn.Module):
    """Backbone that returns a map of a given shape."""

    pretrained_cfg = MappingProxyType({"input_size": (3, 32, 32), "architecture": "other"})
    feature_info = ({"num_chs": 8, "reduction": 16},)

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.used, self.unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward_intermediates(self, x, **_):
        return [self.used * x.new_ones(self.shape)]


def test_map_must_be_the_declared_one_and_parameters_that_it_does_not_depend_on_are_frozen():
    """E.g. the parameters of HRNet's finer maps: a distributed wrapper would wait for their gradients."""
    for shape in ((2, 4, 8), (2, 4, 6, 6)):
        with pytest.raises(ValueError, match=r"instead of .B, 8, H, W.*use a convolutional network"):
            check_feature_map(SimpleNamespace(backbone=_Returns(shape), in_chans=3))
    backbone = _Returns((2, 8, 6, 6))
    check_feature_map(SimpleNamespace(backbone=backbone, in_chans=3), img_size=(32, 48))
    assert (backbone.used.requires_grad, backbone.unused.requires_grad) == (True, False)
    assert backbone.used.device.type == "cpu"
