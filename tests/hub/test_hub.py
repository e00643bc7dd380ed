"""Loading from the Hub and from the cache, and uploading, with the real client."""

import pytest
import timm
import torch
from huggingface_hub import ModelCard, errors

import causalcxr
from causalcxr import Calibration

NAME = "hf-hub:owner/repo"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # from the client, on upload


def test_only_config_and_weights_of_one_commit_are_asked_for(hub, repo):
    """In particular no code, whatever the repository contains."""
    first = repo.head
    repo.commit({"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"", "hubconf.py": b"raise SystemExit"})
    loaded = causalcxr.create_model(NAME)
    assert hub.asked("GET") == [
        "/owner/repo/resolve/main/config.json",
        f"/owner/repo/resolve/{repo.head}/model.safetensors",
    ]
    assert loaded.pretrained_cfg["hf_hub_id"] == f"owner/repo@{repo.head}"
    assert causalcxr.create_model(f"{NAME}@{first}").pretrained_cfg["hf_hub_id"] == f"owner/repo@{first}"


def test_second_time_from_the_cache(hub, repo, go_offline):
    causalcxr.create_model(NAME)
    hub.requests.clear()
    causalcxr.create_model(NAME)
    assert hub.asked("GET") == []
    hub.requests.clear()
    go_offline()
    causalcxr.create_model(NAME)
    assert hub.requests == []


def test_cache_in_a_folder_of_choice(hub, repo, tmp_path):
    causalcxr.create_model(NAME, cache_dir=tmp_path / "other")
    assert len(list((tmp_path / "other").rglob("model.safetensors"))) == 1
    assert not (tmp_path / "cache").exists()


def test_errors_are_those_of_the_client(hub, repo):
    with pytest.raises(errors.RevisionNotFoundError):
        causalcxr.create_model(f"{NAME}@none")
    del repo.files["model.safetensors"]
    repo.files["pytorch_model.bin"] = b"a pickle"
    for create_model in (causalcxr.create_model, lambda name: timm.create_model(name, True)):
        with pytest.raises(errors.EntryNotFoundError):
            create_model(NAME)
    assert not any(path.endswith(".bin") for path in hub.asked("GET"))


def test_weights_that_do_not_belong_to_their_config(repo):
    content = repo.files["model.safetensors"]
    repo.files["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(ValueError, match=r"is damaged or does not belong to its config.json"):
        causalcxr.create_model(NAME)


def test_no_network(repo, model, images, cut_off):
    """The saved model loads with timm, and then from the cache within seconds, without the client's retries."""
    loaded = timm.create_model(NAME, pretrained=True).eval()
    assert torch.equal(loaded(images), model(images))
    assert loaded.label_names == model.label_names
    cut_off()
    assert torch.equal(causalcxr.create_model(NAME).eval()(images), model(images))


def test_weights_of_a_registered_tag(hub, repo, model, images):
    """A tag declares a repository at a commit, here not the newest."""
    options = {**timm.models.get_model_args(model), "pretrained_cfg_overlay": {"hf_hub_id": f"owner/repo@{repo.head}"}}
    repo.commit({"model.safetensors": b"newer"})
    loaded = causalcxr.create_model("causal_test_resnet", pretrained=True, **options).eval()
    assert torch.equal(loaded(images), model(images))


# --- uploading


def test_one_commit_with_weights_config_and_card(hub, model, images, metrics, capfd):
    calibration = Calibration(1.25, (0.5,) * 14)
    commit = causalcxr.push_to_hub(model, "owner/new", calibration=calibration, metrics=metrics)
    repo = hub.repos["owner/new"]
    assert (commit.oid, len(repo)) == (repo.head, 2)
    assert set(repo.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.eval_results[0].metric_value == 0.7
    assert 'create_model("hf-hub:owner/new")' in card.text
    loaded = causalcxr.create_model("hf-hub:owner/new").eval()
    assert torch.equal(loaded(images), model(images))
    assert loaded.calibration == calibration
    assert "hf_secret" not in "".join(capfd.readouterr())
    assert not any(b"hf_secret" in content for content in repo.files.values())


def test_folder_is_uploaded_as_it_is_with_a_picture_on_request(hub, copied):
    (copied / "film.png").write_bytes(b"PNG")
    with (copied / "README.md").open("a") as card:
        card.write("Written by hand.")
    causalcxr.push_to_hub(copied, "owner/new")
    files = hub.repos["owner/new"].files
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"] == (copied / "model.safetensors").read_bytes()
    assert files["README.md"].endswith(b"Written by hand.")
    assert b"hf-hub:owner/new" in files["README.md"]
    causalcxr.push_to_hub(copied, "owner/new", picture=copied / "film.png")
    files = hub.repos["owner/new"].files
    assert files["picture.png"] == b"PNG"
    assert files["README.md"].count(b"](picture.png)\n\n## ") == 1
    (copied / "README.md").unlink()
    with pytest.raises(ValueError, match="picture needs a card to upload"):
        causalcxr.push_to_hub(copied, "owner/other", picture=copied / "film.png")
    assert "owner/other" not in hub.repos


def test_card_that_is_there_stays_unless_there_are_figures(hub, repo, model, metrics, copied):
    repo.files["README.md"] = b"Written by hand."
    causalcxr.push_to_hub(model, "owner/repo")
    assert repo.files["README.md"] == b"Written by hand."
    causalcxr.push_to_hub(model, "owner/repo", metrics=metrics, revision="main")
    assert b"0.700 (0.650, 0.750)" in repo.files["README.md"]
    kept = (copied / "README.md").read_text()
    causalcxr.push_to_hub(copied, "owner/new", metrics=metrics)
    assert b"0.700 (0.650, 0.750)" in hub.repos["owner/new"].files["README.md"]
    assert (copied / "README.md").read_text() == kept


def test_pull_request_to_a_branch_with_a_token(hub, copied):
    options = {"revision": "dev", "create_pr": True, "token": "hf_other"}
    commit = causalcxr.push_to_hub(copied, "owner/new", **options)
    assert commit.pr_num == 1
    assert hub.asked("POST")[-1] == "/api/models/owner/new/commit/dev"
    assert hub.last == ("Bearer hf_other", "create_pr=1")


def test_private_models_are_not_put_into_public_repositories(hub, repo, model):
    causalcxr.push_to_hub(model, "owner/new", private=True)
    assert hub.repos["owner/new"].private
    assert "README.md" in hub.repos["owner/new"].files
    with pytest.raises(ValueError, match="'owner/repo' exists and is public"):
        causalcxr.push_to_hub(model, "owner/repo", private=True)
    assert len(repo) == 1


def test_nothing_is_sent_where_the_description_does_not_fit(hub, metrics, copied):
    metrics["auroc"]["Fracture"] = metrics["auroc"].pop("Mass")
    with pytest.raises(ValueError, match="metrics may only have labels of the model, but got Fracture"):
        causalcxr.push_to_hub(copied, "owner/new", metrics=metrics)
    with pytest.raises(ValueError, match="label_names cannot be used with a folder; pass it to save_pretrained"):
        causalcxr.push_to_hub(copied, "owner/new", label_names=["a"])
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors"):
        causalcxr.push_to_hub(copied, "owner/new")
    assert hub.requests == []
