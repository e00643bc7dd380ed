"""Uploading with the real client."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor

import causalcxr
from causalcxr import Calibration, CausalCXR
from hub_server import HubServer, Repo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, while uploading


def test_one_commit_with_weights_config_and_card(
    hub: HubServer, model: CausalCXR, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    calibration = Calibration(1.25, (0.5,) * 14)
    commit = causalcxr.push_to_hub(model, "owner/new", calibration=calibration, commit_message="First weights")
    repo = hub.repos["owner/new"]
    assert repo.messages == ["initial commit", "First weights"]
    assert (commit.oid, commit.commit_url) == (repo.head, f"{hub.url}/owner/new/commit/{repo.head}")
    assert set(repo.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert json.loads(repo.files["config.json"])["calibration"] == {"temperature": 1.25, "thresholds": [0.5] * 14}
    assert "None was given" in repo.files["README.md"].decode()
    assert "with temperature 1.25" in repo.files["README.md"].decode()
    assert torch.equal(causalcxr.create_model("hf-hub:owner/new").eval()(images), model(images))


def test_card_has_the_evaluation(hub: HubServer, model: CausalCXR, evaluation: Path) -> None:
    causalcxr.push_to_hub(model, "owner/new", evaluation=evaluation, token="hf_writer")  # noqa: S106
    data = ModelCard(hub.repos["owner/new"].files["README.md"].decode()).data
    assert data.model_name == "new"
    assert data.eval_results[0].metric_value == 0.7


def test_card_that_is_there_stays_unless_there_is_an_evaluation(
    hub: HubServer, repo: Repo, model: CausalCXR, evaluation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    repo.files["README.md"] = b"Written by hand."
    causalcxr.push_to_hub(model, "owner/repo")
    assert repo.files["README.md"] == b"Written by hand."
    causalcxr.push_to_hub(model, "owner/repo", evaluation=evaluation)
    assert b"Mean AUROC of 14 labels" in repo.files["README.md"]


@pytest.mark.parametrize(("options", "branch"), [({"revision": "dev"}, "dev"), ({"create_pr": True}, "main")])
def test_other_branches(
    hub: HubServer, repo: Repo, model: CausalCXR, options: dict[str, Any], branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    commit = causalcxr.push_to_hub(model, "owner/repo", **options)
    assert hub.asked("POST")[-1] == f"/api/models/owner/repo/commit/{branch}"
    assert bool(commit.pr_url) is ("create_pr" in options)


def test_private_repositories(hub: HubServer, repo: Repo, model: CausalCXR, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    for _ in range(2):
        causalcxr.push_to_hub(model, "owner/new", private=True)
    assert hub.repos["owner/new"].private
    assert len(hub.repos["owner/new"].commits) == 3
    with pytest.raises(ValueError, match="'owner/repo' exists and is public; make it private on its page, or take"):
        causalcxr.push_to_hub(model, "owner/repo", private=True)
    assert len(repo.commits) == 1


@pytest.mark.parametrize("token", [None, "hf_wrong", "hf_reader"])
def test_token_that_may_not_write(
    hub: HubServer, repo: Repo, model: CausalCXR, token: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("owner/new", "owner/repo"):
        with pytest.raises(PermissionError, match=f"no right to write to '{name}'; log in with .*may write") as caught:
            causalcxr.push_to_hub(model, name, token=token)
        printed = capsys.readouterr()
        everything = "".join(traceback.format_exception(caught.value)) + printed.out + printed.err
        assert token is None or token not in everything
    assert list(hub.repos) == ["owner/repo"]
    assert len(repo.commits) == 1


def test_token_is_neither_printed_nor_stored(
    hub: HubServer,
    model: CausalCXR,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    commit = causalcxr.push_to_hub(model, "owner/new", token="hf_writer")  # noqa: S106
    printed = capsys.readouterr()
    assert "hf_writer" not in f"{commit!r} {printed.out} {printed.err} {caplog.text}"
    assert not any(b"hf_writer" in content for content in hub.repos["owner/new"].files.values())
    assert not (tmp_path / "token").exists()


def test_nothing_is_sent_where_the_description_does_not_fit(hub: HubServer, model: CausalCXR, evaluation: Path) -> None:
    with pytest.raises(ValueError, match="one name for each of 14 labels in 'label_names'"):
        causalcxr.push_to_hub(model, "owner/new", label_names=["Mass"], token="hf_writer")  # noqa: S106
    other = causalcxr.create_model("causal_test_resnet", num_classes=1, label_names=["Mass"])
    with pytest.raises(ValueError, match="14 label names given, 1 expected"):
        causalcxr.push_to_hub(other, "owner/new", evaluation=evaluation, token="hf_writer")  # noqa: S106
    assert hub.requests == []
