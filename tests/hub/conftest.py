"""A saved model, and a local Hub server for the real client."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download, utils

import causalcxr
from causalcxr import Calibration
from causalcxr.data import NIH_LABELS
from hub_server import HubServer, Repo

# Arguments that differ from the registered ones.
OPTIONS = {"dim": 32, "depth": 1, "complement": "paper", "backbone_args": {"channels": (16, 24, 32, 48)}}


@pytest.fixture(scope="session")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def model():
    return causalcxr.create_model("causal_test_resnet", label_names=NIH_LABELS, **OPTIONS).eval()


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    causalcxr.save_pretrained(model, path, calibration=Calibration(1.5, (0.25,) * 14))
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the saved model, for tests that change it."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture
def metrics():
    """Metrics for a card, including a label without positive test images."""
    rows = {name: {"value": 0.6 + k / 100, "low": 0.6, "high": 0.68} for k, name in enumerate(NIH_LABELS)}
    rows |= {
        "mean": {"value": 0.7, "low": 0.65, "high": 0.75},
        "Hernia": {"value": None},
        "Mass": {"value": 0.64, "low": 0.6, "positives": 9, "positive_groups": 7},
    }
    about = {"data": "NIH ChestX-ray14", "split": "test", "images": 1492, "patients": 300, "seed": 5, "commit": "abc"}
    return {**about, "auroc": rows}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub, which the client uses with an empty cache."""
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
        if hasattr(file_download, name):  # old versions keep copies there
            monkeypatch.setattr(file_download, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    _stop(server)


@pytest.fixture
def go_offline(hub, monkeypatch):
    """Function that sets `HF_HUB_OFFLINE` and closes the session, since old clients only read it on opening one."""

    def change():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        _close_session()

    return change


@pytest.fixture
def cut_off(hub):
    """Function that stops the Hub. The test must then end within seconds."""
    start = time.monotonic()
    yield lambda: _stop(hub)
    assert time.monotonic() - start < 10


def _close_session():
    (getattr(utils, "close_session", None) or utils.reset_sessions)()  # depends on the client version


def _stop(server):
    _close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def repo(hub, folder):
    """The repository `owner/repo` with the saved model."""
    hub.repos["owner/repo"] = Repo()
    hub.repos["owner/repo"].commit({path.name: path.read_bytes() for path in folder.iterdir()})
    return hub.repos["owner/repo"]
