"""Loading published weights into backbones, and the table of published backbones."""

import argparse
import logging
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

import causalcxr
from causalcxr.models.backbone import create_backbone, feature_map
from causalcxr.models.published import BACKBONES, PublishedBackbone
from reference.comparison import images, randomised

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def tiny(monkeypatch):
    """Add a small stand-in for rows of the table to it, whose networks are too large for a test."""
    about = ("tiny_grey", "densenet121", 64, 1, 0.5, 1 / 2048, "apache-2.0", "https://host/file.pt", "nobody")
    row = PublishedBackbone(*about, {"block_config": (1, 1, 1, 1)})
    monkeypatch.setitem(BACKBONES, row.name, row)
    return row


def _network(name, *, scale=0.5, **kwargs):
    """Return a timm network with all weights randomised, by default so much that attention is not nearly uniform."""
    return randomised(timm.create_model(name, num_classes=3, **kwargs), scale=scale).float().eval()


def _weights(network):
    return {name: weight for name, weight in network.state_dict().items() if not name.startswith("head.")}


def _assert_same(network, source, name, size=70, **kwargs):
    backbone = create_backbone(name, pretrained=source, backbone_args=kwargs)[0].eval()
    with torch.no_grad():
        (expected,) = network.forward_intermediates(images(size, size), indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(feature_map(backbone, images(size, size)), expected, rtol=1e-5, atol=1e-5)


def _as_dinov2(weights):
    """Rename weights of timm's DINOv2 with registers as in the original, in which the class token has a position."""
    position = torch.ones(1, 1, 32)
    own = {"register_tokens": weights["reg_token"], "mask_token": torch.zeros(1, 32)}
    own["cls_token"] = weights["cls_token"] - position
    own["pos_embed"] = torch.cat([position, weights["pos_embed"]], dim=1)
    return {name: weight for name, weight in weights.items() if name != "reg_token"} | own


def _as_transformers(weights, *, saved):
    """Rename DINOv2 weights as in a transformers model, or as in its saved files."""
    theirs = {
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        **{f"{kind}_token": f"embeddings.{kind}_token" for kind in ("cls", "mask", "register")},
        "blocks.": "encoder.layer.",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "attn.proj": "attention.output.dense" if saved else "attention.o_proj",
        "attn.qkv": "attention.attention.{}" if saved else "attention.{}_proj",
    }
    renamed = {}
    for name, weight in weights.items():
        name = re.sub("^norm", "layernorm", name)
        for ours, its in theirs.items():
            name = name.replace(ours, its)
        parts = zip(("query", "key", "value") if saved else "qkv", weight.chunk(3), strict=True)
        renamed |= {name.format(letter): part.clone() for letter, part in parts} if "{}" in name else {name: weight}
    return dict(sorted(renamed.items()))  # the key before the query


@pytest.mark.parametrize(("saved", "below"), [(None, ""), (True, "dinov2."), (False, "module.backbone.")])
def test_dinov2_of_its_authors_and_of_transformers(tmp_path, saved, below):
    network = _network("vit_small_patch14_reg4_dinov2", img_size=70, **TINY)
    weights = _as_dinov2(_weights(network))
    if saved is not None:
        weights = _as_transformers(weights, saved=saved)
    torch.save({"model": {below + name: weight for name, weight in weights.items()}}, tmp_path / "dino.pth")
    _assert_same(network, tmp_path / "dino.pth", "vit_small_patch14_reg4_dinov2", img_size=70, **TINY)


@pytest.mark.parametrize(
    ("container", "wrapped"), [("model", "model.backbone."), ("state_dict", "module."), ("module", "")]
)
def test_masked_autoencoder(tmp_path, wrapped, container, caplog):
    """With the arguments of its training. The decoder is skipped, and positions are resampled to the patches."""
    network = _network("vit_small_patch16_224", img_size=64, **TINY)
    weights = _weights(network)
    weights |= {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 32)}
    weights |= {f"decoder_blocks.{k}.norm1.weight": torch.zeros(16) for k in range(50)}
    content = {container: {wrapped + name: weight for name, weight in weights.items()}, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "mae.pth")
    with caplog.at_level(logging.INFO, "causalcxr"):
        _assert_same(network, tmp_path / "mae.pth", "vit_small_patch16_224", size=64, img_size=64, **TINY)
    assert "52 weights from " in caplog.text
    assert "decoder_embed.weight" in caplog.text


def test_eva_x(tmp_path):
    """As after masked pretraining: the norm applies to the tokens, and the prediction layer is skipped."""
    row = BACKBONES["eva_x_tiny"]
    arguments = {**row.backbone_args, **TINY}
    network = _network(row.architecture, **arguments)
    weights = {**_weights(network), "mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.zeros(8, 32)}
    torch.save(weights, tmp_path / "eva.pt")
    _assert_same(network, tmp_path / "eva.pt", row.architecture, size=224, **arguments)


def test_backbone_of_a_model_of_ours(tmp_path):
    model = causalcxr.create_model("causal_test_resnet").eval()
    causalcxr.save_pretrained(model, tmp_path)
    save_file(model.backbone.state_dict(), tmp_path / "backbone.safetensors")  # its checksum is not in the config
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "backbone.safetensors"):
        copy = causalcxr.create_model("causal_test_resnet", num_classes=2, pretrained_backbone=path).eval()
        torch.testing.assert_close(copy.forward_features(images()), model.forward_features(images()))


class _Anything:
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", {"model": _Anything()}, "cannot be read as a file of tensors"),
        ("w.pth", {"epoch": 3}, "no weights at the top level"),
        ("w.pth", [torch.zeros(2)], "cannot be read as a file of tensors"),
        ("w.safetensors", {}, "cannot be read as a file of tensors"),  # it is no safetensors file
    ],
)
def test_file_that_cannot_be_used(tmp_path, name, content, message):
    torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        create_backbone("test_resnet", pretrained=tmp_path / name)


# torchxrayvision's other DenseNets only differ in their files.
ROWS = [row for row in causalcxr.list_backbones() if not re.match(r"xrv_densenet121_(?!all)", row.name)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_of_the_table(row):
    """Each row names a network that accepts its images, and sets `pretrained_cfg` to them."""
    model = causalcxr.create_model("causal_timm", backbone=row.name, pretrained_backbone=False, device="meta")
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (row.channels, row.pixels, row.pixels)
    assert (cfg["mean"], cfg["std"]) == ((row.mean,) * row.channels, (row.std,) * row.channels)
    assert cfg.get("license") is None  # the licence is that of the weights
    assert model.reduction in (14, 16)
    assert re.match(r"hf-hub:[\w.-]+/[\w.-]+(@[0-9a-f]{40})?:[\w.]+\.safetensors$|https://", row.address)


def test_short_names(tiny, monkeypatch):
    with pytest.raises(ValueError, match=r"are a pickle, https://host/file.pt, .* pretrained_backbone=False"):
        causalcxr.create_model("causal_timm", backbone="tiny_grey")
    with pytest.raises(ValueError, match=r"create_model\('causal_timm', backbone='tiny_grey'\)"):
        causalcxr.CausalCXR("tiny_grey")
    with pytest.raises(ValueError, match="close names: tiny_grey"):
        causalcxr.create_model("causal_timm", backbone="tinygrey")
    monkeypatch.setitem(BACKBONES, "tiny_resnet", tiny._replace(architecture="test_resnet", backbone_args={}))
    model = causalcxr.create_model("causal_test_resnet", backbone="tiny_resnet", pretrained_backbone=False)
    assert (model.pretrained_cfg["std"], model.pretrained_cfg["input_size"]) == ((1 / 2048,), (1, 64, 64))


def _model(pretrained_backbone=False, **options):
    options |= {"backbone": "tiny_grey", "pretrained_backbone": pretrained_backbone}
    return causalcxr.create_model("causal_timm", dim=32, num_heads=4, **options).eval()


def test_model_on_a_published_backbone_comes_back_from_a_folder(tiny, tmp_path):
    model, film = _model(), torch.rand(1, 80, 90)
    causalcxr.save_pretrained(model, tmp_path)
    assert "license:" not in (tmp_path / "README.md").read_text()
    x = model.preprocess(film)
    for pretrained in (True, False):  # neither loads the weights of the table
        copy = causalcxr.create_model(tmp_path, pretrained=pretrained).eval()
        torch.testing.assert_close(copy.preprocess(film), x)
        assert torch.allclose(copy(x), model(x)) == pretrained


def test_grey_weights_for_colour_images(tiny, tmp_path):
    network = _network("densenet121", scale=0.1, in_chans=1, block_config=(1, 1, 1, 1))
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    grey, colour = (_model(tmp_path / "grey.pth", in_chans=channels) for channels in (1, 3))
    assert grey.pretrained_cfg["license"] == "apache-2.0"
    film = torch.rand(1, 64, 64)
    assert colour.preprocess(film).shape == (1, 3, 64, 64)
    maps = [model.forward_features(model.preprocess(film)) for model in (grey, colour)]
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-3)


def test_images_may_reach_the_range_of_the_backbone(tiny):
    with pytest.raises(ValueError, match=r"within \+-2048, but reach 4096"):
        _model()(torch.full((1, 1, 64, 64), 4096.0))
