"""Backbones from timm: their weights, strides and feature maps."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import causalcxr
from causalcxr.models.backbone import check_feature_map, create_backbone, feature_map
from reference.comparison import images


@pytest.fixture
def weights():
    """Weights of a timm model, including its classifier."""
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def test_no_layer_silently_keeps_its_random_weights(weights, tmp_path):
    del weights["layer3.0.conv1.weight"]
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"net.safetensors do not fit the backbone 'test_resnet': .*layer3.0.conv1"):
        create_backbone("test_resnet", pretrained=tmp_path / "net.safetensors")


@pytest.mark.parametrize("in_chans", [3, 1])
def test_weights_from_a_file(weights, tmp_path, in_chans):
    save_file(weights, path := tmp_path / "net.safetensors")
    model = causalcxr.create_model("causal_test_resnet", in_chans=in_chans, pretrained_backbone=str(path)).eval()
    expected = timm.create_model("test_resnet", num_classes=7, checkpoint_path=path, output_stride=16).eval()
    x = images(channels=in_chans)
    reference = expected.forward_intermediates(x.expand(-1, 3, -1, -1), indices=1, intermediates_only=True)
    torch.testing.assert_close(feature_map(model.backbone, x), reference[-1], rtol=1e-4, atol=1e-5)
    assert "state_dict" not in model.backbone.pretrained_cfg


@pytest.mark.parametrize(
    ("name", "native", "asked"),
    [("resnet18", 32, 4), ("densenet121", 32, 4), ("densenet121", 32, 64), ("vit_small_patch16_224", 16, 8)],
)
def test_stride_that_cannot_be_had(name, native, asked):
    message = f"a stride of {native} pixels and cannot be built with output_stride={asked}"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_backbone(name, output_stride=asked)


class _EverySecondCell(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2]


@pytest.mark.parametrize(
    ("output_stride", "dilated"), [(32, []), (16, ["transition3"]), (8, ["transition2", "transition3"])]
)
def test_dilated_densenet_sees_the_pixels_of_the_plain_one(output_stride, dilated):
    """At shared cells, a dilated block reads the same pixels, except for the average pooling that it replaces."""
    blocks = {"block_config": (1, 2, 3, 3), "growth_rate": 8}
    backbone, _, stride = create_backbone("densenet121", backbone_args=blocks, output_stride=output_stride)
    reference = timm.create_model("densenet121", num_classes=0, **blocks).eval()
    reference.load_state_dict(backbone.state_dict(), strict=True)
    for name in dilated:
        reference.features.get_submodule(name).pool = _EverySecondCell()
    x, step = images(128, 96), 32 // output_stride
    found = feature_map(backbone.eval(), x)
    assert (stride, found.shape[2:]) == (output_stride, (128 // stride, 96 // stride))
    torch.testing.assert_close(found[..., ::step, ::step], reference.forward_features(x))


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
    with pytest.raises(ValueError, match=r"no feature map: on images .2, 1, 512, 512., shape .* is invalid"):
        causalcxr.create_model("causal_timm", backbone="csatv2", in_chans=1, device="meta")


def test_map_must_have_the_declared_channels(small):
    model = small("causal_test_resnet")
    model.backbone.feature_info[-1]["num_chs"] = 5
    with pytest.raises(ValueError, match=r"instead of .B, 5, H, W.*use a convolutional network"):
        check_feature_map(model)


def test_parameters_that_the_map_does_not_depend_on_are_frozen():
    """E.g. those of HRNet's finer maps. A distributed wrapper would wait for their gradients."""
    model = causalcxr.create_model("causal_timm", backbone="hrnet_w18_small", device="meta")
    feature_map(model.backbone, torch.empty(2, 3, 64, 64, device="meta")).sum().backward()
    used = [parameter.grad is not None for parameter in model.backbone.parameters()]
    assert used == [parameter.requires_grad for parameter in model.backbone.parameters()]
    assert set(used) == {True, False}
