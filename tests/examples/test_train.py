"""The training script: output of a run, resuming, and rejected options."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file

import causalcxr
import train
from causalcxr.data import CSVDataset, NIHChestXray14
from causalcxr.losses import backdoor_weights
from causalcxr.models.published import BACKBONES

SMALL = ["--data=synthetic:64", "--model=causal_test_resnet", "--image-size=64", "--batch-size=16", "--workers=0"]


def run(output, *options):
    """Train in this process on the CPU, and return the log."""
    AcceleratorState._reset_state(reset_partial_state=True)
    small = [option for option in SMALL if not (option[:8] == "--model=" and "--backbone=" in " ".join(options))]
    train.main([*small, f"--output={output}", *options])
    return log(output)


def log(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    run(folder, "--epochs=2")
    return folder


pytestmark = pytest.mark.filterwarnings(  # raised by barely trained classifiers
    "ignore:AUROC is undefined", "ignore:no t", "ignore:Mean of empty slice", "ignore:.*like probabilities"
)


def own_films(folder):
    """Write twelve images of six patients, and a table with three findings and the view of each."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 32), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,p{i // 2},{i // 2 % 2},{i % 3 % 2 or ''},0,{'AP' if i % 2 else 'PA'}")
    table = folder / "films.csv"
    table.write_text("path,patient,Drain,Mass,Rare,view\n" + "\n".join(rows))
    return table


def test_own_films_from_a_table(tmp_path, monkeypatch, capsys):
    """The card has no local paths, and each warning is shown once. A batch has all images if there are too few."""
    options = ["--data", str(own_films(tmp_path / "films")), "--labels", "Mass", "Drain", "Rare"]
    options += ["--batch-size=64", "--val-fraction=0.5", "--epochs=3"]
    monkeypatch.setattr(sys, "argv", ["examples/train.py", *options, f"--output={tmp_path / 'run'}"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        epochs = run(tmp_path / "run", *options)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert sum("AUROC is undefined" in line for line in said) == 1
    assert len(said) == len(set(said)) > 1
    assert causalcxr.create_model(tmp_path / "run").label_names == ("Mass", "Drain", "Rare")
    assert len((tmp_path / "run" / "train_patients.txt").read_text().split()) == 3
    card = (tmp_path / "run" / "README.md").read_text()
    assert "AUROC on films.csv, validation (used for selection), images: 6, patients: 3" in card
    assert "python examples/train.py --data films.csv --labels Mass Drain Rare --batch-size=64" in card
    assert " --output=run\n" in card
    assert str(tmp_path) not in card
    assert f"{max(epoch['val_auroc'] for epoch in epochs):.3f}" in card


@pytest.mark.filterwarnings("ignore:.*combinations of label and stratum have no image")  # only three patients
def test_a_run_goes_on_with_the_same_data_alone(tmp_path, capsys):
    """The data may have moved. A finished run is not trained again."""
    table = own_films(tmp_path / "films")
    options = [f"--data={table}", "--adjust=view", "--batch-size=4", "--val-fraction=0.5", "--epochs=1"]
    options += ["--labels", "Drain", "Mass", "Rare"]
    run(tmp_path / "run", *options, "--resume")
    assert "labels: Drain, Mass, Rare" in capsys.readouterr().out
    text, weights = table.read_text(), (tmp_path / "run" / "model.safetensors").read_bytes()
    changes = {"Drain,Mass": "Mass,Drain", "p4,": "q4,", "11.png,p5,1,": "11.png,p5,0,", ",PA": ",AP"}
    for before, after in changes.items():
        assert before in text
        table.write_text(text.replace(before, after, 3))
        with pytest.raises(SystemExit, match=r"was trained with data of checksum \d+: use the same, or"):
            run(tmp_path / "run", *options, "--resume")
    table.write_text(text)
    with pytest.raises(SystemExit, match="was trained with adjust view, data of"):
        run(tmp_path / "run", *(option for option in options if option != "--adjust=view"), "--resume")
    moved = table.parent.rename(tmp_path / "moved") / table.name
    run(tmp_path / "run", *options, f"--data={moved}", "--resume")
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    options = ("--epochs=3", "--workers=1")
    unbroken = run(tmp_path / "unbroken", *options)
    predict, calls = train.predict, []

    def dies_in_the_second_epoch(*args):
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


def test_a_run_is_not_overwritten(trained, tmp_path):
    without_state = shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("resume"))
    (without_state / "log.jsonl").unlink()  # as a model of save_pretrained
    for folder, options in ((trained, []), (without_state, []), (without_state, ["--resume"])):
        with pytest.raises(SystemExit, match="holds a model"):
            run(folder, "--epochs=2", *options)
    with pytest.raises(SystemExit, match=r"was trained with lr 0.0005: use the same, or another --output$"):
        run(trained, "--epochs=2", "--resume", "--lr=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data=nowhere"], "^cannot .* in 'nowhere'; pass the folder of the NIH release, or"),
        (["--model=resnet19"], "^cannot .* unknown model 'resnet19'; close names: "),
        (["--model=test_resnet", "--backbone-weights=no.pt"], r"^cannot .*no\.pt"),
        (["--adjust=nothing"], "^cannot .* --adjust nothing is none of: view, sex, age"),
        ([f"--output={__file__}"], "^cannot train with these options: .* File exists"),
        (["--model=resnet18", "--freeze-backbone"], "--freeze-backbone needs weights"),
        (["--labels", "Mass"], "--labels selects columns of FILE.csv"),
        (["--accumulate=0"], "--epochs and --accumulate must be at least 1"),
        (["--accumulate=8", "--batch-size=4"], "--batch-size at least --accumulate"),
        (["--model=hf-hub:owner/repo", "--backbone-weights=timm"], "does not work with hf-hub:owner/repo"),
    ],
)
def test_a_slip_gives_one_sentence(tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *options)
    assert re.search(message, f"{stopped.value}\n{capsys.readouterr().err}")


def test_labels_of_one_class_cannot_be_validated(tmp_path):
    with pytest.raises(SystemExit, match="validation needs 2 patients and both classes of a label"):
        run(tmp_path / "run", f"--data={own_films(tmp_path / 'films')}", "--batch-size=4", "--labels", "Rare")


def test_of_equal_epochs_the_last_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(causalcxr.metrics, "auroc", lambda logits, targets: np.ones(14))
    run(tmp_path, "--epochs=2", "--ema-decay=0")
    assert load_file(tmp_path / "model.safetensors")["backbone.bn1.num_batches_tracked"] == 2 * 64 // 16
    assert "holds epoch 2 with the best" in capsys.readouterr().out


def test_sides_stay_sides():
    args = train.parse_args(["--data=synthetic:4", "--output=a", "--image-size=64"])
    views = next(iter(train.build_data(args))).transform
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    assert all(view[..., :32].mean() > view[..., 32:].mean() for view in (views(left) for _ in range(10)))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(SystemExit, match=r"nan.*lower --lr"):
        run(tmp_path, "--lr=1e30", "--epochs=1")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_timm_model_that_learns_from_agreement(tmp_path, capsys):
    """It has one channel, and the range of its label weights is printed."""
    options = ["--model=test_efficientnet", "--objective=agreement", "--adjust=view", "--epochs=1", "--lr=1e-6"]
    (epoch,) = run(tmp_path, *options, "--model-kwargs", "in_chans=1")
    assert re.search(r"\nweights of labels: 0\.\d+ to 1\.\d+\n", capsys.readouterr().out)
    assert "agreement" in epoch["losses"]
    model = causalcxr.create_model(tmp_path).eval()
    assert model.get_classifier().weight.abs().max() < 0.1  # timm's initial values reach 0.27
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 14)
    assert "license: " not in (tmp_path / "README.md").read_text()  # that of weights it did not start from


def test_a_name_with_a_tag_starts_from_its_weights(tmp_path):
    """If the backbone is frozen, neither its weights nor its batch statistics change."""
    options = ["--model=causal_efficientnet_lite0.nih11k", "--freeze-backbone"]
    assert train.image_size(train.parse_args(["--data=nih", "--output=a", *options])) == 192
    run(tmp_path, *options, "--epochs=1", "--lr=1e-6", "--ema-decay=0")
    assert train.image_size(train.parse_args(["--data=nih", "--output=a", f"--model={tmp_path}"])) == 64
    shipped = causalcxr.create_model("causal_efficientnet_lite0", pretrained=True)
    ours = causalcxr.create_model(tmp_path)
    for name, value in shipped.backbone.state_dict().items():
        assert torch.equal(ours.backbone.state_dict()[name], value)
    found, before = (model.head.causal_classifier.weight for model in (ours, shipped))
    assert 0 < (found - before).abs().max() < 1e-4


def test_a_plain_name_with_a_tag_asks_for_its_weights(monkeypatch):
    asked = {}

    def create(name, *, pretrained, pretrained_cfg_overlay, **options):
        asked[name] = pretrained, pretrained_cfg_overlay
        return timm.models.test_resnet(**options)

    monkeypatch.setattr(train.timm, "create_model", create)
    args = train.parse_args(["--data=nih", "--output=a", "--model=test_resnet.r160_in1k"])
    assert train.image_size(args) == 160
    train.build_objective(args, ["Mass"])
    assert asked == {"test_resnet.r160_in1k": (True, {})}
    assert not train.parse_args(["--data=nih", "--output=a", "--model=runs/v1.2"]).pretrained  # no such folder


@pytest.mark.parametrize("objective", ["causal", "plain"])
def test_a_table_of_one_finding_trains(tmp_path, objective):
    table = own_films(tmp_path / "films")
    table.write_text("\n".join(",".join(row.split(",")[:3]) for row in table.read_text().splitlines()))
    options = [f"--data={table}", f"--objective={objective}", "--batch-size=4", "--val-fraction=0.5", "--lr=1e-9"]
    (epoch,) = run(tmp_path / "run", *options, "--epochs=1")
    assert ("bd" in epoch["losses"]) == (objective == "causal")
    assert causalcxr.create_model(tmp_path / "run").label_names == ("Drain",)


def test_a_published_backbone(tmp_path, monkeypatch):
    """A run uses the image size of its weights. Layer-wise decay keeps the first layers nearly fixed."""
    args = {"embed_dim": 48, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    row = BACKBONES["xrv_resnet50_all"]._replace(
        name="grey", architecture="vit_tiny_patch16_224", pixels=64, channels=3, backbone_args=args
    )
    monkeypatch.setitem(BACKBONES, "grey", row)
    options = ["--backbone=grey", f"--backbone-weights={tmp_path / 'theirs.safetensors'}", "--layer-decay=0.01"]
    assert train.image_size(train.parse_args(["--data=nih", "--output=a", *options])) == 64
    run(tmp_path / "run", *options, "--epochs=1", "--ema-decay=0")
    model = causalcxr.create_model(tmp_path / "run")
    assert model.pretrained_cfg["std"] == (row.std,) * 3
    first, last = (
        (model.backbone.get_parameter(name) - theirs.get_parameter(name)).abs().max().item()
        for name in ("patch_embed.proj.weight", "blocks.1.mlp.fc1.weight")
    )
    assert 0 < first < 0.01 * last


def test_a_run_starts_from_a_model_of_other_labels(trained, tmp_path):
    """The backbone is kept. Classifiers are new even if the number of labels is the same."""
    theirs = causalcxr.create_model(trained, label_names=[f"finding {k}" for k in range(14)])
    causalcxr.save_pretrained(theirs, tmp_path / "theirs")
    run(tmp_path / "ours", f"--model={tmp_path / 'theirs'}", "--epochs=1", "--lr=0", "--ema-decay=0")
    ours = causalcxr.create_model(tmp_path / "ours")
    assert ours.label_names == causalcxr.data.NIH_LABELS
    assert len(ours.calibration.thresholds) == 14
    assert torch.equal(ours.backbone.layer4[0].conv1.weight, theirs.backbone.layer4[0].conv1.weight)
    assert not torch.equal(ours.head.causal_classifier.weight, theirs.head.causal_classifier.weight)


def test_the_preset_is_what_the_paper_says_and_other_options_go_first():
    options = ["--preset=paper", "--image-size=256", "--model-kwargs", "dim=32", "drop_rate=0.1"]
    args = train.parse_args(["--data=nih", "--output=a", *options])
    assert (args.model, args.image_size, args.lr, args.weight_decay) == ("causal_resnet101", 256, 1e-3, 1e-2)
    assert args.model_kwargs == {"complement": "paper", "drop_rate": 0.1, "dim": 32}
    objective = train.build_objective(argparse.Namespace(**vars(args) | {"model": "causal_test_resnet"}), list("abc"))
    assert (objective.bank, args.optimizer) == (None, "adam")
    assert objective.criterion.partners == "random"


@pytest.mark.filterwarnings("ignore:.*combinations of label and stratum have no image")  # few images
def test_weights_by_a_recorded_confounder(made_release, tmp_path):
    dataset, table = NIHChestXray14(made_release, "train"), tmp_path / "films.csv"
    rows = zip(dataset.paths, dataset.patient, dataset.view, dataset.targets[:, 2].long(), strict=True)
    table.write_text("path,patient,view,Effusion\n" + "".join("{},{},{},{}\n".format(*row) for row in rows))
    films = CSVDataset(table, "all", label_names=["Effusion"])
    for column, strata in (("age", dataset.age // 20), ("view", dataset.view == "PA")):
        expected = backdoor_weights(dataset.targets, torch.from_numpy(strata).long(), smoothing=1)
        torch.testing.assert_close(train.label_weights(dataset, column), expected)
    torch.testing.assert_close(train.label_weights(films, "view")[:, 0], expected[:, 2])


def launch(script, *arguments, processes=2):
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *several, str(script), *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}  # hide any GPU
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]


KEEPING = """import sys, torch, train

def keep(accelerator, model, loader):
    content = dict(model.named_buffers()), torch.initial_seed()
    torch.save(content, f"{sys.argv[1]}/{accelerator.process_index}.pt")
    return predict(accelerator, model, loader)

train.predict, predict = keep, train.predict
train.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "tolerance"), [("plain", 1e-4), ("causal", 0.1)])
def test_two_processes_train_as_one(tmp_path, objective, tolerance):
    """Two processes see the halves that one process sees in turn; the bank differs slightly.

    Batch statistics differ between CPU processes, but not in the averaged model, with which both validate. Each process
    has its own seed for augmentation and dropout.
    """
    (tmp_path / "keeping.py").write_text(KEEPING)
    options = [*SMALL, "--epochs=2", "--no-augment", "--model-kwargs", "drop_rate=0", f"--objective={objective}"]
    launch(train.__file__, f"--output={tmp_path / 'one'}", *options, "--accumulate=2", processes=1)
    launch(tmp_path / "keeping.py", tmp_path, f"--output={tmp_path / 'two'}", *options)
    for ours, theirs in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert ours["losses"]["loss"] == pytest.approx(theirs["losses"]["loss"], rel=tolerance)
    (one, seed), (other, other_seed) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert (seed, other_seed) == (0, 1)
    assert len(one) > 10
    assert all(torch.equal(one[name], other[name]) for name in one)
