"""Weights that other libraries write, in backbones of timm: the same maps as in these libraries."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import causalcxr
from causalcxr.models.backbone import create_backbone, feature_map
from reference.comparison import randomised

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::SyntaxWarning"),
]
GREY = {"in_chans": 1, "output_stride": 32}


def _images(channels, size):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("registers", "gated", "below"), [(0, False, "dinov2."), (4, True, "")])
def test_dinov2_of_transformers(tmp_path, registers, gated, below):
    """As `save_pretrained` writes it, alone or in a classifier; at 37 x 37 patches of 14 pixels, as RAD-DINO has."""
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    config = getattr(transformers, f"{kind}Config")(**sizes, use_swiglu_ffn=gated, mlp_ratio=4)
    network = randomised(getattr(transformers, f"{kind}Model")(config), scale=0.1).float().eval()
    network.save_pretrained(tmp_path)
    if below:
        weights = {f"{below}{name}": weight for name, weight in load_file(tmp_path / "model.safetensors").items()}
        save_file({**weights, "classifier.weight": torch.zeros(2, 64)}, tmp_path / "model.safetensors")
    name = f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if registers else ''}dinov2"
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    if gated:
        shape["mlp_ratio"] = 2 * 88 / 32  # transformers takes two thirds of four widths, to a multiple of 8
    backbone, _, stride = create_backbone(name, pretrained=tmp_path, backbone_args=shape)
    images = _images(3, 518)
    with torch.no_grad():
        expected = network(images).last_hidden_state[:, 1 + registers :].transpose(1, 2).unflatten(2, (37, 37))
        maps = feature_map(backbone.eval(), images)
    assert stride == 14
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def xrv():
    return pytest.importorskip("torchxrayvision")


def test_densenet_of_torchxrayvision(xrv, tmp_path):
    network = randomised(xrv.models.DenseNet(num_classes=18, op_threshs=torch.ones(18)), scale=0.1).float().eval()
    torch.save(network.state_dict(), tmp_path / "densenet.pth")
    backbone, *_ = create_backbone("densenet121", pretrained=tmp_path / "densenet.pth", **GREY)
    images = _images(1, 224)
    with torch.no_grad():
        maps = feature_map(backbone.eval(), images)
        expected = network.features(images).relu()
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_resnet_of_torchxrayvision(xrv, tmp_path, monkeypatch):
    """Its constructor reads a file of weights, which is made here, and its own file has them below `model.`."""
    import torchvision

    bare = torchvision.models.resnet50(num_classes=18)
    bare.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(randomised(bare, scale=0.1).float().state_dict(), tmp_path / "bare.pt")
    monkeypatch.setattr(xrv.models, "get_weights", lambda *_, **__: str(tmp_path / "bare.pt"))
    network = xrv.models.ResNet(weights="resnet50-res512-all")
    torch.save(network.state_dict(), tmp_path / "wrapped.pt")
    images = _images(1, 512)
    with torch.no_grad():
        expected = network.features(images)
        for path in ("bare.pt", "wrapped.pt"):
            backbone, *_ = create_backbone("resnet50", pretrained=tmp_path / path, **GREY)
            means = feature_map(backbone.eval(), images).mean(dim=(2, 3))
            torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_images_of_torchxrayvision(xrv):
    """`pretrained_cfg` scales films as its own function does."""
    model = causalcxr.create_model("causal_timm", backbone="xrv_densenet121_all", pretrained_backbone=False)
    film = torch.arange(224 * 224, dtype=torch.uint8).reshape(224, 224).numpy()
    expected = torch.from_numpy(xrv.utils.normalize(film, 255))
    torch.testing.assert_close(model.preprocess(film)[0, 0], expected, rtol=1e-6, atol=1e-3)
