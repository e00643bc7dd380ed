"""A saved model, and a Hub on this machine that the real client talks to."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download, utils
from torch import Tensor

import causalcxr
from causalcxr import Calibration, CausalCXR
from causalcxr.data import NIH_LABELS
from hub_server import HubServer, Repo

REPO = "owner/repo"
# With arguments that differ from the entry point's.
OPTIONS = {"dim": 32, "depth": 1, "complement": "paper", "backbone_args": {"channels": (16, 24, 32, 48)}}


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def model() -> CausalCXR:
    return causalcxr.create_model("causal_test_resnet", **OPTIONS).eval()


@pytest.fixture(scope="session")
def folder(model: CausalCXR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    causalcxr.save_pretrained(model, path, calibration=Calibration(1.5, (0.25,) * 14))
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub; the client uses it, with an empty cache and without a token."""
    server = HubServer()
    changes = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name, value in changes.items():
        monkeypatch.setattr(constants, name, value, raising=False)
        if hasattr(file_download, name):  # old versions have copies there
            monkeypatch.setattr(file_download, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    _close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def go_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Sets `HF_HUB_OFFLINE`, which old versions of the client look at when they open a session."""

    def change() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        _close_session()

    yield change
    _close_session()


def _close_session() -> None:
    close = getattr(utils, "close_session", None) or utils.reset_sessions  # by version of the client
    close()


@pytest.fixture
def repo(hub: HubServer, folder: Path) -> Repo:
    """A repository with the saved model."""
    hub.repos[REPO] = Repo()
    hub.repos[REPO].commit({path.name: path.read_bytes() for path in folder.iterdir()})
    return hub.repos[REPO]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A file in the form of `results.json`, of one model, with a label that no test image has."""
    labels = {
        name: {"positives": k + 5, "auroc": 0.6 + k / 100, "interval": [0.6, 0.68]} for k, name in enumerate(NIH_LABELS)
    }
    labels["Hernia"] = {"positives": 0, "auroc": math.nan, "interval": [math.nan, math.nan]}
    figures = {
        "mean_auroc": 0.7,
        "interval": [0.65, 0.75],
        "labels": labels,
        "groups": {"AP only": {"mean_auroc": 0.68, "interval": [0.6, 0.7], "images": 700, "labels": ["Mass"]}},
        "training": {
            "config": {"seed": 5, "epochs": 6},
            "epoch": 3,
            "val_auroc": 0.74,
            "lists": {"train": {"images": 7000}, "val": {"images": 1500}},
            "commit": "abc",
        },
    }
    content = {
        "split": "test",
        "images": {"images": 1492, "label_file": "Data_Entry_2017.csv"},
        "models": {"run": figures},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path
