"""The reference loop: what a run leaves, how it goes on, and what it refuses."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

import causalcxr
import evaluate
import train
from causalcxr.data import NIHChestXray14
from causalcxr.losses import backdoor_weights
from causalcxr.models.published import BACKBONES
from causalcxr_cli import main as cli

SMALL = ["--data=synthetic:64", "--model=causal_test_resnet", "--image-size=64", "--batch-size=16", "--workers=0"]


def run(output: Path, *options: str) -> list[dict]:
    """Train in this process on the CPU, and return the log without its times."""
    AcceleratorState._reset_state(reset_partial_state=True)
    on_backbone = any(option.startswith("--backbone=") for option in options)
    small = [option for option in SMALL if not (on_backbone and option.startswith("--model="))]
    train.main([*small, f"--output={output}", *options])
    return log(output)


def log(output: Path) -> list[dict]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        run(folder, "--epochs=2")
    return folder


pytestmark = pytest.mark.filterwarnings("ignore:AUROC is undefined", "ignore:no t", "ignore:Mean of empty slice")


def test_a_run_is_a_model(trained: Path) -> None:
    model, images = causalcxr.create_model(trained).eval(), torch.randn(2, 3, 64, 64)
    assert model.label_names == causalcxr.data.NIH_LABELS
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
    assert len(model.calibration.thresholds) == 14
    by_timm = timm.create_model(f"local-dir:{trained}", pretrained=True).eval()
    torch.testing.assert_close(by_timm(images), model(images), rtol=0, atol=0)
    card = (trained / "README.md").read_text()
    assert f"{max(record['val_auroc'] for record in log(trained)):.3f}" in card
    assert f"\npython {Path(sys.argv[0]).name}" in card  # without the folder of the script


def test_the_command_line_and_evaluate_open_a_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    film = tmp_path / "film.png"
    from PIL import Image

    Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))).save(film)
    assert cli(["predict", str(film), "--model", str(trained)]) == 0
    assert "Effusion" in capsys.readouterr().out
    evaluate.main([str(trained), "--data=synthetic:48", "--resamples=20", "--workers=1", "--device=cpu"])
    result = json.loads((trained / "test.json").read_text())
    causalcxr.save_pretrained(causalcxr.create_model(trained), tmp_path / "again", metrics=result)
    assert f"{result['auroc']['mean']['value']:.3f}" in (tmp_path / "again" / "README.md").read_text()


def test_a_run_is_pushed_as_it_is(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        """Keeps what would be sent."""

        sent: ClassVar[dict[str, Any]] = {}

        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return argparse.Namespace(repo_id=repo_id)

        def create_commit(self, repo_id: str, operations: list[Any], **_: Any) -> None:
            self.sent.update({operation.path_in_repo: operation for operation in operations})

    monkeypatch.setattr("causalcxr.hub.HfApi", Api)
    causalcxr.push_to_hub(trained, "owner/repo")
    assert set(Api.sent) == {"config.json", "model.safetensors", "README.md"}  # not the log, nor what resumes it
    assert b"hf-hub:owner/repo" in Api.sent["README.md"].path_or_fileobj


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--epochs=3", "--workers=1")
    unbroken = run(tmp_path / "unbroken", *options)
    predict, calls = train.predict, []

    def dies_in_the_second_epoch(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*args)

    monkeypatch.setattr(train, "predict", dies_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", *options)
    assert run(tmp_path / "broken", *options, "--resume") == unbroken
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("broken", "unbroken"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_finished_run_is_not_trained_again(trained: Path, capsys: pytest.CaptureFixture) -> None:
    before = (trained / "model.safetensors").read_bytes()
    run(trained, "--epochs=2", "--resume")
    said = capsys.readouterr().out
    assert "resuming after epoch 2" in said
    assert "done" in said
    assert (trained / "model.safetensors").read_bytes() == before


def test_a_run_is_not_overwritten(trained: Path) -> None:
    with pytest.raises(SystemExit, match="--resume"):
        run(trained, "--epochs=2")
    with pytest.raises(SystemExit, match=r"was trained with lr 0.0005: give the same, or another --output$"):
        run(trained, "--epochs=2", "--resume", "--lr=1")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data=nothere", "in 'nothere'; give the folder of the NIH release"),
        ("--data=synthetic:many", "in 'synthetic:many'; give the folder of the NIH release"),
        ("--model=resnet19", "unknown model 'resnet19'; close names: "),
        ("--backbone=resnet19", "unknown backbone 'resnet19'; close names: "),
        ("--backbone-weights=no.pt", "no file of backbone weights at no.pt"),
        ("--adjust=nothing", "nothing not found"),
        ("--output=FILE", "File exists: 'FILE'"),
    ],
)
def test_a_slip_gives_one_sentence(tmp_path: Path, option: str, message: str) -> None:
    (tmp_path / "file").touch()
    file = str(tmp_path / "file")
    with pytest.raises(SystemExit, match=f"^cannot train with these options: .*{message.replace('FILE', file)}"):
        run(tmp_path, option.replace("FILE", file))


def test_weights_of_a_timm_model_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^cannot train with these options: .*no\.pt"):
        run(tmp_path, "--model=test_resnet", "--backbone-weights=no.pt")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nan.*lower --lr"):
        run(tmp_path, "--lr=1e30", "--epochs=1")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("objective", ["plain", "agreement"])
def test_a_timm_model_and_other_objectives(tmp_path: Path, objective: str) -> None:
    run(tmp_path, "--model=test_resnet", f"--objective={objective}", "--adjust=view", "--epochs=1")
    model = causalcxr.create_model(tmp_path).eval()
    assert not isinstance(model, causalcxr.CausalCXR)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 14)


def test_a_run_starts_from_another(trained: Path, tmp_path: Path) -> None:
    run(tmp_path, f"--model={trained}", "--epochs=1", "--lr=0", "--ema-decay=0", "--weight-decay=0")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, trained))
    assert torch.equal(ours["head.causal_classifier.weight"], theirs["head.causal_classifier.weight"])


def test_a_head_on_a_frozen_backbone(tmp_path: Path) -> None:
    """Neither weights nor batch statistics of the backbone change."""
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "theirs.safetensors")
    options = ["--backbone=test_resnet", f"--backbone-weights={tmp_path / 'theirs.safetensors'}", "--freeze-backbone"]
    run(tmp_path / "run", *options, "--epochs=1", "--weight-decay=0.1")
    ours, theirs = (load_file(tmp_path / name) for name in ("run/model.safetensors", "theirs.safetensors"))
    kept = {name: value for name, value in theirs.items() if not name.startswith("fc.")}
    assert len(kept) > 30
    assert all(torch.equal(ours[f"backbone.{name}"], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model=resnet18", "--freeze-backbone"], "--backbone that it needs"),
        (["--model=resnet18", "--backbone=resnet50"], "--backbone: not allowed with argument --model"),
        (["--model=FOLDER", "--backbone-weights=timm"], "is not for local-dir:.*, which has its own weights"),
        (["--model=hf-hub:owner/repo", "--backbone-weights=timm"], "is not for hf-hub:owner/repo, which"),
        (["--accumulate=0"], "--epochs and --accumulate must be 1 or more"),
        (["--accumulate=8", "--batch-size=4"], "--batch-size no less than --accumulate"),
    ],
)
def test_options_that_exclude_each_other(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    with pytest.raises(SystemExit):
        train.parse_args(["--data=nih", "--output=a", *options])
    assert re.search(message, capsys.readouterr().err)


def test_a_published_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has the images that the weights expect, and with layer-wise rates the first layers hardly move."""
    args = {"embed_dim": 48, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    row = BACKBONES["xrv_resnet50_all"]._replace(
        name="grey", architecture="vit_tiny_patch16_224", pixels=64, channels=3, backbone_args=args
    )
    monkeypatch.setitem(BACKBONES, "grey", row)
    options = ["--backbone=grey", f"--backbone-weights={tmp_path / 'theirs.safetensors'}", "--layer-decay=0.01"]
    assert train.parse_args(["--data=nih", "--output=a", *options]).image_size == 64
    run(tmp_path / "run", *options, "--epochs=1", "--ema-decay=0")
    model = causalcxr.create_model(tmp_path / "run")
    assert model.pretrained_cfg["std"] == (row.std,) * 3
    first, last = (
        (ours - weights).abs().max().item()
        for ours, weights in (
            (model.backbone.patch_embed.proj.weight, theirs.patch_embed.proj.weight),
            (model.backbone.blocks[1].mlp.fc1.weight, theirs.blocks[1].mlp.fc1.weight),
        )
    )
    assert 0 < first < 0.01 * last


def test_a_run_starts_from_a_model_of_other_labels(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its classifiers are new, also where there are as many labels."""
    names = [f"finding {k}" for k in range(14)]
    theirs = causalcxr.create_model(trained, label_names=names)
    causalcxr.save_pretrained(theirs, tmp_path / "theirs")
    caplog.clear()
    run(tmp_path / "ours", f"--model={tmp_path / 'theirs'}", "--epochs=1")
    assert "are new" in caplog.text
    assert causalcxr.create_model(tmp_path / "ours").label_names == causalcxr.data.NIH_LABELS


def test_the_preset_is_what_the_paper_says_and_other_options_go_first() -> None:
    args = train.parse_args(["--data=nih", "--output=a", "--preset=paper", "--image-size=256"])
    assert (args.model, args.image_size, args.lr, args.weight_decay) == ("causal_resnet101", 256, 1e-3, 1e-2)
    objective = train.build_objective(argparse.Namespace(**vars(args) | {"model": "causal_test_resnet"}), list("abc"))
    assert (objective.bank, args.optimizer) == (None, "adam")
    assert objective.criterion.partners == "random"


def test_every_option_is_described(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # an option a line
    with pytest.raises(SystemExit):
        train.parse_args(["--help"])
    lines = capsys.readouterr().out.splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("  -")]
    assert 14 <= len(options) <= 26  # with --help
    for i in options:  # a description beside a short option, or below a long one
        assert "  " in lines[i].strip() or lines[i + 1].startswith(" " * 20), lines[i]


def test_weights_by_a_recorded_confounder(made_release: Path, tmp_path: Path) -> None:
    dataset = NIHChestXray14(made_release, "train", image_size=32)
    drains = {name: str(i % 2) for i, name in enumerate(dataset.names) if i % 3}
    table = tmp_path / "drains.csv"
    table.write_text("Image Index,Drain\n" + "".join(f"{name},{value}\n" for name, value in drains.items()))
    strata = torch.tensor([int(drains.get(name, 2)) for name in dataset.names])
    expected = backdoor_weights(dataset.targets, strata, smoothing=1)
    torch.testing.assert_close(train.label_weights(dataset, f"{table}:Drain"), expected)
    view = torch.from_numpy((dataset.view == "PA").astype(int))
    expected = backdoor_weights(dataset.targets, view, smoothing=1)
    torch.testing.assert_close(train.label_weights(dataset, "view"), expected)
    table.write_text("Image Index,Drain\nother.png,1\n")
    for column in ("Drain", "Drian"):
        with pytest.raises(SystemExit, match=f"has no column {column}, or none of the"):
            train.label_weights(dataset, f"{table}:{column}")


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "tolerance"), [("plain", 1e-4), ("causal", 0.1)])
def test_two_processes_train_as_one(tmp_path: Path, objective: str, tolerance: float) -> None:
    """Two processes see the halves that one sees in turn; the bank differs a little."""
    options = [*SMALL, "--epochs=2", "--no-augment", "--model-kwargs", "drop_rate=0", f"--objective={objective}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start, extra in (("one", [], ["--accumulate=2"]), ("two", two, [])):
        command = [sys.executable, *start, train.__file__, f"--output={tmp_path / name}", *options, *extra]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = log(tmp_path / "one"), log(tmp_path / "two")
    for ours, theirs in zip(other, one, strict=True):
        assert ours["losses"]["loss"] == pytest.approx(theirs["losses"]["loss"], rel=tolerance)


@pytest.mark.slow
def test_processes_validate_one_model(tmp_path: Path) -> None:
    """Without accelerators batch statistics differ between processes; those of the averaged model must not."""
    script = tmp_path / "keeping.py"
    script.write_text(
        "import runpy, sys, torch\n"
        "train = runpy.run_path(sys.argv[1])\n"
        "predict = train['predict']\n"
        "def keep(accelerator, model, loader):\n"
        "    torch.save(dict(model.named_buffers()), f'{sys.argv[2]}/{accelerator.process_index}.pt')\n"
        "    return predict(accelerator, model, loader)\n"
        "train['main'].__globals__['predict'] = keep\n"
        "train['main'](sys.argv[3:])\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [train.__file__, str(tmp_path), *SMALL, f"--output={tmp_path / 'run'}", "--epochs=1"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(one) > 10
    assert all(torch.equal(one[name], other[name]) for name in one)
