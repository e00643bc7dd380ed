"""Loading weights from torchvision into timm backbones."""

import logging
import re

import pytest
import torch
import torchvision
from torch import nn

from causalcxr.models.backbone import create_backbone, feature_map
from reference.comparison import images, randomised


def _torchvision(family):
    """Return a shallow torchvision network, its timm name and arguments, and its last feature map."""
    models = torchvision.models
    blocks = [(8, 16, 1), (16, 24, 1), (24, 32, 2), (32, None, 1)]
    networks = {
        "resnet": (models.resnet18(), "resnet18", {}, lambda net, x: nn.Sequential(*list(net.children())[:-2])(x)),
        "densenet": (
            models.DenseNet(32, (1, 2, 2, 1)),
            "densenet121",
            {"block_config": (1, 2, 2, 1)},
            lambda net, x: net.features(x).relu(),
        ),
        "convnext": (
            models.ConvNeXt([models.convnext.CNBlockConfig(*block) for block in blocks]),
            "convnext_tiny",
            {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
            lambda net, x: net.features(x),
        ),
        "swin": (
            models.SwinTransformer([4, 4], 12, [1, 1, 2, 1], [2, 2, 2, 4], [7, 7]),
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 2, 4)},
            lambda net, x: net.norm(net.features(x)).permute(0, 3, 1, 2),
        ),
        "vit": (
            models.VisionTransformer(224, 16, 2, 4, 32, 64),
            "vit_base_patch16_224",
            {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2},
            _vit_map,
        ),
    }
    return networks[family]


def _vit_map(net, x):
    tokens = torch.cat([net.class_token.expand(len(x), -1, -1), net._process_input(x)], dim=1)
    return net.encoder(tokens)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))


def _load(path, family, state_dict):
    _, name, arguments, _ = _torchvision(family)
    torch.save(state_dict, path)
    stride = None if family == "vit" else 32
    return create_backbone(name, pretrained=path, output_stride=stride, backbone_args=arguments)[0].eval()


@pytest.mark.parametrize(
    ("family", "older"),
    [
        *((family, {}) for family in ("resnet", "convnext", "swin", "vit")),
        # Published files predate the current names and, for DenseNet, the batch counters.
        ("densenet", {r"(denselayer\d+\.(?:norm|conv))(\d)": r"\1.\2"}),
        ("vit", {r"mlp\.0": "mlp.linear_1", r"mlp\.3": "mlp.linear_2"}),
    ],
)
def test_weights_under_the_names_of_torchvision(tmp_path, family, older, caplog):
    """The backbone equals the network, and the log reports the numbers of weights."""
    network, name, _, last_map = _torchvision(family)
    weights = randomised(network, scale=0.1).float().eval().state_dict()
    for current, old in older.items():
        assert any(re.search(current, key) for key in weights)
        named = {re.sub(current, old, key): weight for key, weight in weights.items()}
        weights = {key: weight for key, weight in named.items() if not key.endswith("num_batches_tracked")}
    with caplog.at_level(logging.INFO, "causalcxr"), torch.no_grad():
        backbone = _load(tmp_path / "weights.pth", family, weights)
        x = images(224, 224)
        torch.testing.assert_close(feature_map(backbone, x), last_map(network, x), rtol=1e-4, atol=1e-5)
    left = re.search(rf"skipped (\d+) weights from .* not used by {name}: .*(fc|heads?|classifier)\.", caplog.text)
    kept = len(weights) - int(left[1])
    assert f"loaded {kept} weights from {tmp_path / 'weights.pth'} into {name}; none is missing" in caplog.text


def test_foreign_names_of_another_network(tmp_path):
    """timm's own conversion fails on the first with a `KeyError`. The second are of no known layout."""
    for weights in (_torchvision("swin")[0].state_dict(), {"features.0.0.weight": torch.zeros(2)}):
        with pytest.raises(ValueError, match=r"weights.pth do not fit the backbone 'convnext_tiny': "):
            _load(tmp_path / "weights.pth", "convnext", weights)
