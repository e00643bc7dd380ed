"""Backbones on the Hub: which file is taken, and what is said when it is not there."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

import causalcxr
from causalcxr.models.published import BACKBONES, PublishedBackbone
from hub_server import HubServer, Repo


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    """A file of weights of `test_resnet`, as its trainers wrote it."""
    network = timm.create_model("test_resnet", num_classes=5)
    save_file({f"module.{name}": weight for name, weight in network.state_dict().items()}, tmp_path / "theirs")
    return (tmp_path / "theirs").read_bytes()


@pytest.fixture
def repo(hub: HubServer, weights: bytes) -> Repo:
    """A repository of theirs, with a later commit whose weights are damaged."""
    hub.repos["lab/net"] = Repo()
    hub.repos["lab/net"].commit({"model.safetensors": weights, "sub/best.safetensors": weights, "net.pt": b"pickle"})
    hub.repos["lab/net"].commit({"model.safetensors": weights[:100]})
    return hub.repos["lab/net"]


def _create(source: str, **kwargs: Any) -> Any:
    return causalcxr.create_model("causal_test_resnet", pretrained_backbone=source, **kwargs)


def _stem(path: Path) -> torch.Tensor:
    return load_file(path)["module.conv1.0.weight"]


def test_file_at_a_commit(repo: Repo, hub: HubServer, tmp_path: Path, go_offline: Callable[[], None]) -> None:
    """Once it is in the cache, nothing is asked of the network."""
    first = next(iter(repo))
    for source in (f"hf-hub:lab/net@{first}", f"hf-hub:lab/net@{first}:sub/best.safetensors"):
        assert torch.equal(_create(source).backbone.conv1[0].weight, _stem(tmp_path / "theirs"))
    before = len(hub.requests)
    _create(f"hf-hub:lab/net@{first}")
    assert len(hub.requests) == before
    go_offline()
    _create(f"hf-hub:lab/net@{first}")


def test_file_of_the_main_branch(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, go_offline: Callable[[], None]
) -> None:
    """The newest, or without a network the one that was downloaded before."""
    assert torch.equal(
        _create("hf-hub:lab/net:sub/best.safetensors").backbone.conv1[0].weight, _stem(tmp_path / "theirs")
    )
    with pytest.raises(ValueError, match=r"model.safetensors is damaged, or no safetensors file"):
        _create("hf-hub:lab/net")
    go_offline()
    _create("hf-hub:lab/net:sub/best.safetensors")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("hf-hub:lab/net:net.pt", ValueError, "net.pt is no safetensors file; others may run code"),
        (
            "hf-hub:lab/net:other.safetensors",
            FileNotFoundError,
            "lab/net has no other.safetensors at main; name another",
        ),
        ("hf-hub:lab/net@v9", RevisionNotFoundError, "Revision Not Found"),
        ("hf-hub:lab/none", RepositoryNotFoundError, "Repository Not Found"),
        (
            "hf-hub:lab",
            ValueError,
            r"weights on the Hub are 'hf-hub:owner/repo\[@revision\]\[:file\]', but got 'hf-hub:lab'",
        ),
    ],
)
def test_what_is_not_there(repo: Repo, hub: HubServer, source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _create(source)
    assert not any(path.endswith(".pt") for path in hub.asked("GET"))


def test_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within seconds, where the client would try again and again."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    start = time.monotonic()
    message = "model.safetensors of lab/net is not in the cache, and http.* or give a path"
    with pytest.raises(ConnectionError, match=message):
        _create("hf-hub:lab/net")
    assert time.monotonic() - start < 10


def test_short_name(repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One argument: the network, its weights, and the images that these know."""
    address = f"hf-hub:lab/net@{next(iter(repo))}:model.safetensors"
    row = PublishedBackbone("their_net", "test_resnet", 96, 3, 0.53, 0.26, "mit", address, "nobody", {})
    monkeypatch.setitem(BACKBONES, row.name, row)
    model: Any = causalcxr.create_model("causal_timm", backbone="their_net", dim=32, num_heads=4)
    assert torch.equal(model.backbone.conv1[0].weight, _stem(tmp_path / "theirs"))
    assert model.pretrained_cfg["mean"] == (0.53,) * 3
    assert model.preprocess(torch.rand(1, 100, 100)).shape == (1, 3, 96, 96)
    same: Any = timm.create_model("causal_timm", backbone="their_net", dim=32, num_heads=4)
    assert torch.equal(same.backbone.conv1[0].weight, model.backbone.conv1[0].weight)
