"""Backbones on the Hub: which file is loaded, and the errors if it is missing."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import causalcxr
from causalcxr.models.published import BACKBONES, PublishedBackbone
from hub_server import Repo


@pytest.fixture
def network():
    return timm.create_model("test_resnet")


@pytest.fixture
def repo(hub, network, tmp_path):
    """Repository with third-party weights, and a later commit with damaged ones."""
    save_file({f"module.{name}": weight for name, weight in network.state_dict().items()}, tmp_path / "theirs")
    weights = (tmp_path / "theirs").read_bytes()
    hub.repos["lab/net"] = Repo()
    hub.repos["lab/net"].commit({"model.safetensors": weights, "sub/best.safetensors": weights, "net.pt": b"pickle"})
    hub.repos["lab/net"].commit({"model.safetensors": weights[:100]})
    return hub.repos["lab/net"]


def _stem(source):
    model = causalcxr.create_model("causal_test_resnet", pretrained_backbone=source)
    return model.backbone.conv1[0].weight


def test_file_of_the_main_branch_or_of_a_commit(repo, hub, network):
    """Once the file of a commit is in the cache, no request is made."""
    at_commit = f"hf-hub:lab/net@{next(iter(repo))}"
    for source in ("hf-hub:lab/net:sub/best.safetensors", at_commit):
        assert torch.equal(_stem(source), network.conv1[0].weight)
    hub.requests.clear()
    _stem(at_commit)
    assert hub.requests == []


def test_sources_that_are_refused(repo, hub):
    for source, message in (
        ("hf-hub:lab/net:net.pt", "net.pt is not a safetensors file"),
        ("hf-hub:lab", "'hf-hub:owner/repo.*, but got 'hf-hub:lab'"),
    ):
        with pytest.raises(ValueError, match=message):
            _stem(source)
    assert hub.requests == []


def test_cached_weights_of_timm_without_a_network(cut_off, network, tmp_path):
    """They load from the cache."""
    cut_off()
    folder = tmp_path / "cache" / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(network.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    assert torch.equal(_stem(True), network.conv1[0].weight)


def test_short_name(repo, network, monkeypatch):
    """One name selects the network, its weights and the expected images, for timm's function too."""
    address = f"hf-hub:lab/net@{next(iter(repo))}:model.safetensors"
    row = PublishedBackbone("their_net", "test_resnet", 96, 3, 0.53, 0.26, "mit", address, "nobody", {})
    monkeypatch.setitem(BACKBONES, row.name, row)
    model = timm.create_model("causal_timm", backbone="their_net", dim=32, num_heads=4)
    assert torch.equal(model.backbone.conv1[0].weight, network.conv1[0].weight)
    assert model.pretrained_cfg["mean"] == (0.53,) * 3
    assert model.preprocess(torch.rand(1, 100, 100)).shape == (1, 3, 96, 96)
