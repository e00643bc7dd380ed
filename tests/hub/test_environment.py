"""The client as users set it up, by environment variables that it reads when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from causalcxr import CausalCXR
from hub_server import HubServer, Repo

CODE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
import torch, causalcxr
model = causalcxr.create_model("hf-hub:owner/repo").eval()
torch.save(model(torch.load(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
def test_private_repository_then_offline(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, tmp_path: Path
) -> None:
    repo.private = True
    torch.save(images, tmp_path / "images")
    for number, settings in enumerate([{"HF_TOKEN": "hf_reader"}, {"HF_HUB_OFFLINE": "1"}]):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        run = subprocess.run(
            [sys.executable, "-c", CODE, tmp_path / "images", tmp_path / f"logits{number}"],
            env={**environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **settings},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert "hf_reader" not in run.stdout + run.stderr
        assert torch.equal(torch.load(tmp_path / f"logits{number}"), model(images))
        assert bool(hub.requests) == (number == 0)
        hub.requests.clear()
    stored = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and b"hf_reader" in path.read_bytes()]
    assert stored == []
