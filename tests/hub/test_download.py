"""Loading from a Hub with the real client: from the network, from the cache, and what can go wrong."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, errors
from torch import Tensor

import causalcxr
from causalcxr import Calibration, CausalCXR
from hub_server import HubServer, Repo

NAME = "hf-hub:owner/repo"


def test_logits_are_those_of_the_model_that_was_saved(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor
) -> None:
    loaded = causalcxr.create_model(NAME).eval()
    assert torch.equal(loaded(images), model(images))
    assert (loaded.label_names, loaded.calibration) == (model.label_names, Calibration(1.5, (0.25,) * 14))
    assert torch.equal(timm.create_model(NAME, pretrained=True).eval()(images), model(images))


def test_only_config_and_weights_are_asked_for(hub: HubServer, repo: Repo) -> None:
    """Above all no code, whatever the repository says."""
    repo.commit({"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"", "hubconf.py": b"raise SystemExit"})
    causalcxr.create_model(NAME)
    assert hub.asked("GET") == [
        "/owner/repo/resolve/main/config.json",
        f"/owner/repo/resolve/{repo.head}/model.safetensors",
    ]


def test_second_time_from_the_cache(hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor) -> None:
    causalcxr.create_model(NAME)
    hub.requests.clear()
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))
    assert hub.asked("GET") == []


def test_cache_in_a_folder_of_choice(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    causalcxr.create_model(NAME, cache_dir=tmp_path / "other")
    assert len(list((tmp_path / "other").rglob("model.safetensors"))) == 1
    assert not (tmp_path / "cache").exists()


def test_offline_with_a_filled_cache(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, go_offline: Callable[[], None]
) -> None:
    causalcxr.create_model(NAME)
    hub.requests.clear()
    go_offline()
    for name in (NAME, f"{NAME}@{repo.head}"):
        assert torch.equal(causalcxr.create_model(name).eval()(images), model(images))
    assert hub.requests == []


def test_offline_without_a_cache(hub: HubServer, repo: Repo, go_offline: Callable[[], None]) -> None:
    go_offline()
    message = "config.json of 'owner/repo' is not in the cache and HF_HUB_OFFLINE is set; load it once without"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        causalcxr.create_model(NAME)
    assert isinstance(caught.value.__cause__, errors.LocalEntryNotFoundError)
    assert hub.requests == []


def test_revisions(hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, tmp_path: Path) -> None:
    first = repo.head
    other = causalcxr.create_model("causal_test_resnet", num_classes=3).eval()
    causalcxr.save_pretrained(other, tmp_path)
    repo.commit({path.name: path.read_bytes() for path in tmp_path.glob("*.*")})
    pinned, newest = causalcxr.create_model(f"{NAME}@{first}").eval(), causalcxr.create_model(NAME).eval()
    assert torch.equal(pinned(images), model(images))
    assert torch.equal(newest(images), other(images))
    assert pinned.pretrained_cfg["hf_hub_id"] == f"owner/repo@{first}"
    assert newest.pretrained_cfg["hf_hub_id"] == f"owner/repo@{repo.head}"


def test_config_and_weights_are_of_one_commit(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though somebody commits other weights in between."""
    first = dict(repo.files)
    answer = hub.RequestHandlerClass._file

    def commit_after_config(handler: Any, name: str, content: bytes, commit: str) -> None:
        answer(handler, name, content, commit)
        if handler.command == "GET" and name == "config.json":
            repo.commit({"model.safetensors": first["model.safetensors"][:-4] + b"\0\0\0\1"})

    monkeypatch.setattr(hub.RequestHandlerClass, "_file", commit_after_config)
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))
    assert len(repo.commits) == 2


def test_weights_of_a_registered_tag(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, go_offline: Callable[[], None]
) -> None:
    """As they will be declared: a repository at a commit."""
    overlay = {"hf_hub_id": f"owner/repo@{repo.head}"}
    options = {"dim": 32, "depth": 1, "complement": "paper", "backbone_args": {"channels": (16, 24, 32, 48)}}
    for create_model in (causalcxr.create_model, timm.create_model):
        loaded = create_model("causal_test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()
        assert torch.equal(loaded(images), model(images))
    go_offline()
    overlay = {"hf_hub_id": f"owner/repo@{'0' * 40}"}
    with pytest.raises(FileNotFoundError, match=r"model.safetensors of 'owner/repo' at revision '0{40}' is not in the"):
        causalcxr.create_model("causal_test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf-hub:owner/none", PermissionError, "no access to 'owner/none': .* private or gated, or does not exist"),
        ("hf-hub:owner/repo@none", FileNotFoundError, "repository 'owner/repo' has no revision 'none'"),
        ("hf-hub:owner/repo/more", ValueError, "Repo id must be in the form"),
        ("hf-hub:", ValueError, "no model id / path after the 'hf-hub:' prefix"),
    ],
)
def test_repositories_that_are_missing(
    hub: HubServer, repo: Repo, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        causalcxr.create_model(name)


def test_repository_that_is_missing_for_those_who_are_logged_in(
    hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    message = "no repository 'owner/none' on the Hub; if it is private, log in with `hf auth login` or set HF_TOKEN"
    with pytest.raises(FileNotFoundError, match=message):
        causalcxr.create_model("hf-hub:owner/none")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_files_that_are_missing(hub: HubServer, repo: Repo, missing: str) -> None:
    del repo.files[missing]
    with pytest.raises(FileNotFoundError, match=f"repository 'owner/repo'.* has no file {missing}") as caught:
        causalcxr.create_model(NAME)
    assert isinstance(caught.value.__cause__, errors.EntryNotFoundError)


@pytest.mark.parametrize("create_model", [causalcxr.create_model, lambda name: timm.create_model(name, True)])
def test_pickles_are_not_even_downloaded(hub: HubServer, repo: Repo, create_model: Any) -> None:
    del repo.files["model.safetensors"]
    repo.files["pytorch_model.bin"] = b"a pickle"
    with pytest.raises(ValueError, match=r"'owner/repo' has pytorch_model.bin instead of model.safetensors: a"):
        create_model(NAME)
    assert not any(path.endswith(".bin") for path in hub.asked("GET"))


def test_pickle_of_a_registered_tag(hub: HubServer, repo: Repo) -> None:
    overlay = {"hf_hub_id": "owner/repo", "hf_hub_filename": "weights.pth"}
    with pytest.raises(ValueError, match=r"'owner/repo' has weights.pth instead of model.safetensors: a pickle"):
        causalcxr.create_model("causal_test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_repositories_for_those_who_may(
    hub: HubServer,
    repo: Repo,
    model: CausalCXR,
    images: Tensor,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    setattr(repo, kind, True)
    message = "no access to 'owner/repo': the repository is private or gated, .*`hf auth login` or set HF_TOKEN"
    for token in ("", "hf_wrong"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(PermissionError, match=message) as caught:
            causalcxr.create_model(NAME)
        assert isinstance(caught.value.__cause__, errors.HfHubHTTPError)
        assert "hf_wrong" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))
    assert "hf_reader" not in caplog.text


def test_download_that_breaks_off_is_taken_up_again(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once by new versions of the client, and when the model is loaded again by old ones."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is not a whole chunk is lost
    hub.cut = [3000, 500_000]
    for _ in range(2):
        with suppress(ConnectionError):
            causalcxr.create_model(NAME)
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))
    weights = [headers for method, path, headers in hub.requests if method == "GET" and path.endswith(".safetensors")]
    assert [headers.get("Range") for headers in weights] == [None, "bytes=3000-", "bytes=503000-"]


def test_download_that_breaks_off_again_and_again(
    hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = [0] * 20
    message = r"the download of model.safetensors of 'owner/repo' at revision '\w{40}' failed \(.*\); load it again"
    with pytest.raises(ConnectionError, match=message):
        causalcxr.create_model(NAME)
    assert list(tmp_path.rglob("model.safetensors")) == []  # no part of it is taken for the whole
    hub.cut = []
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))


def test_hub_that_does_not_answer(hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.shutdown()
    hub.server_close()
    message = f"config.json of 'owner/repo' is not in the cache and {hub.url} does not answer; check the connection"
    with pytest.raises(ConnectionError, match=message):
        causalcxr.create_model(NAME)


def test_weights_with_a_wrong_checksum(hub: HubServer, repo: Repo, model: CausalCXR, images: Tensor) -> None:
    """Of the right length, which the client takes for whole."""
    hub.damage = True
    message = r"model.safetensors is damaged or was changed: .*; delete (\S+) to download it from 'owner/repo' again"
    with pytest.raises(ValueError, match=message) as caught:
        causalcxr.create_model(NAME)
    hub.damage = False
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(NAME)
    Path(str(caught.value).split("delete ")[1].split(" to download")[0]).unlink()  # as the message says
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))


def test_weights_that_are_cut_short_in_the_cache(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    causalcxr.create_model(NAME)
    (path,) = (tmp_path / "cache").rglob("model.safetensors")
    path.resolve().write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"damaged, or no safetensors file .* to download it from 'owner/repo' again"):
        causalcxr.create_model(NAME)


def test_config_that_was_tampered_with(hub: HubServer, repo: Repo) -> None:
    repo.files["config.json"] = repo.files["config.json"].replace(b'"dim": 32', b'"dim": "os.system"')
    with pytest.raises(ValueError, match=r"config.json of hf-hub:owner/repo must have int in 'model_args.dim'"):
        causalcxr.create_model(NAME)
    assert len(hub.asked("GET")) == 1  # no weights


def test_repository_of_a_plain_timm_model(hub: HubServer, repo: Repo) -> None:
    repo.files["config.json"] = b'{"architecture": "resnet18", "num_classes": 1000}'
    message = (
        r"hf-hub:owner/repo holds 'resnet18', a model of timm, .*timm.create_model\('hf-hub:owner/repo', pretrained"
    )
    with pytest.raises(ValueError, match=message):
        causalcxr.create_model(NAME)
