import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_nih

STATES = ("objective", "ema", "optimizer", "scheduler")


def load(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def flat(value: object, name: str = "") -> dict[str, object]:
    """Return the leaves of nested dicts and lists by their paths."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {name: value}
    return {key: leaf for k, v in items for key, leaf in flat(v, f"{name}/{k}").items()}


def assert_same(a: object, b: object) -> None:
    left, right = flat(a), flat(b)
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key]
        assert same, key


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--model=test_resnet"],
        ["--loss=asymmetric", "--bank-size=0", "--amp=bfloat16", "--preset=paper", "--model=causal_test_resnet"],
        ["--model=causal_timm", "--backbone=test_vit"],
    ],
    ids=["causal", "plain", "options", "any-backbone"],
)
def test_writes_log_and_checkpoints(tmp_path: Path, options: list[str], extra: list[str]) -> None:
    train_nih.main([*options, *extra, "--epochs=1", f"--output={tmp_path}"])
    (record,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert record["epoch"] == 1
    assert set(record["val_auroc"]) in ({"plain"}, {"causal", "confounding", "intervened"})
    best = load(tmp_path / "best.pt")
    assert best["config"] == json.loads((tmp_path / "config.json").read_text())
    assert best["label_names"][:2] == ["Atelectasis", "Cardiomegaly"]
    assert not list(tmp_path.glob("*.partial"))


def test_resumes_bit_for_bit_after_a_kill(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_nih.main([*options, f"--output={whole}"])
    augment, calls = train_nih.augment, []

    def killed_in_second_epoch(*args: object, **kwargs: float) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return augment(*args, **kwargs)

    monkeypatch.setattr(train_nih, "augment", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_nih.main([*options, f"--output={broken}"])
    assert len(load(broken / "last.pt")["log"]) == 1
    torch.rand(7)  # whatever the random state is when the run is started again
    train_nih.main([*options, f"--output={broken}"])
    assert len(calls) == 6  # the second epoch alone was done again
    ended, resumed = load(whole / "last.pt"), load(broken / "last.pt")
    for part in STATES:
        assert_same(ended[part], resumed[part])
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (whole, broken)
    ]
    assert [(r["losses"], r["val_auroc"]) for r in logs[0]] == [(r["losses"], r["val_auroc"]) for r in logs[1]]


def test_two_processes_train_as_one_does(tmp_path: Path, options: list[str]) -> None:
    # Batch statistics are only synchronised on accelerators: they are left as they are.
    options = [*options, "--freeze-norm", "--drop-rate=0", "--epochs=1", "--bank-size=16"]
    script = [train_nih.__file__, *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name, command in (("one", []), ("two", launcher)):
        run = subprocess.run(
            [sys.executable, *command, *script, f"--output={tmp_path / name}"],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
    one, two = load(tmp_path / "one" / "last.pt"), load(tmp_path / "two" / "last.pt")
    left, right = one["ema"], two["ema"]
    assert left.keys() == right.keys()
    assert max(float((left[key].float() - right[key].float()).abs().max()) for key in left) < 1e-5
    # The bank holds the same features; of each batch of 8 first those of one process, then those of the other.
    banks = [run["objective"]["bank.stored"] for run in (one, two)]
    order = [start + i for start in (0, 8) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    torch.testing.assert_close(banks[0][order], banks[1], atol=1e-3, rtol=1e-3)
    records = [json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("one", "two")]
    assert records[0]["val_auroc"]["causal"] == pytest.approx(records[1]["val_auroc"]["causal"], abs=1e-2)


def test_stops_on_a_loss_that_is_not_finite(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(FloatingPointError, match=r"loss is .* lower --lr"):
        train_nih.main([*options, "--lr=1e25", f"--output={tmp_path}"])


def test_refuses_to_resume_another_run(tmp_path: Path, options: list[str]) -> None:
    train_nih.main([*options, "--epochs=1", f"--output={tmp_path}"])
    with pytest.raises(ValueError, match=r"other arguments.*'seed': \(0, 1\).*another --output"):
        train_nih.main([*options, "--epochs=1", "--seed=1", f"--output={tmp_path}"])


def test_refuses_a_batch_that_is_never_full(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(ValueError, match="16 training images do not fill one batch of 32"):
        train_nih.main([*options, "--batch-size=32", f"--output={tmp_path}"])


def test_presets_are_overridden_by_arguments() -> None:
    config = train_nih.parse_config(["--preset=paper", "--epochs=3"])
    assert (config.model, config.optimizer, config.weight_decay, config.lr) == ("causal_resnet101", "adam", 1e-2, 1e-3)
    assert (config.image_size, config.epochs) == (512, 3)
    with pytest.raises(SystemExit):
        train_nih.parse_config(["--preset=none"])


def test_certain_predictions_are_still_ranked(options: list[str]) -> None:
    config = train_nih.parse_config(options)
    state = train_nih.State(config, 2, torch.zeros(16, 14), {})
    with torch.no_grad():
        state.model.head.intervention.classifier.bias.fill_(200.0)  # probabilities of exactly 1
    state.ema.set(state.model)
    assert train_nih.validate(state, train_nih.build_dataset(config, "val"))["intervened"] == 0.5


@pytest.mark.parametrize("model", ["causal_test_resnet", "test_resnet"])
def test_prior_bias_starts_at_the_frequency_of_each_label(options: list[str], model: str) -> None:
    targets = torch.zeros(20, 14)
    targets[:5, 3] = targets[:, 7] = 1
    state = train_nih.State(train_nih.parse_config([*options, f"--model={model}", "--prior-bias"]), 2, targets, {})
    classifier = state.model.get_classifier()
    torch.nn.init.zeros_(classifier.weight)
    frequency = state.model.eval()(torch.randn(2, 3, 64, 64)).sigmoid()
    expected = torch.full((14,), 0.05)
    expected[3], expected[7] = 0.25, 0.95
    torch.testing.assert_close(frequency, expected.expand(2, 14))


@pytest.mark.parametrize("killed_at", ["best.pt.new", "last.pt", "best.pt", "log.jsonl"])
def test_a_kill_between_two_files_loses_nothing(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    """Killed in the second epoch before one of its files is in place, the run ends as an unbroken one does."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    monkeypatch.setattr(train_nih, "validate", lambda state, dataset: {"causal": state.epoch / 10})  # better each time
    train_nih.main([*options, f"--output={whole}"])
    replace, count = os.replace, []

    def killed(source: object, target: object) -> None:
        count.append(Path(str(target)).name == killed_at)
        if sum(count) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            train_nih.main([*options, f"--output={broken}"])
    train_nih.main([*options, f"--output={broken}"])
    for name in ("best.pt", "last.pt"):
        ended, resumed = (load(folder / name) for folder in (whole, broken))
        for saved in (ended, resumed):
            del saved["config"]["output"]
            for record in saved["log"]:
                del record["seconds"]
        assert_same(ended, resumed)
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in (whole, broken)]
    assert [json.loads(line)["losses"] for line in logs[0]] == [json.loads(line)["losses"] for line in logs[1]]
    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in broken.iterdir())


def test_refuses_to_resume_on_other_images(tmp_path: Path, options: list[str]) -> None:
    train_nih.main([*options, "--epochs=1", f"--output={tmp_path}"])
    saved = load(tmp_path / "last.pt")
    saved["lists"]["train"]["labels_sha256"] = "another"
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"trained on other images or labels.*another"):
        train_nih.main([*options, "--epochs=1", f"--output={tmp_path}"])


def test_options_that_came_or_went_are_changes() -> None:
    config = train_nih.Config(prior_bias=True)
    then = {name: value for name, value in vars(config).items() if name != "prior_bias"} | {"gone": 1}
    changed = train_nih.changed_options(then, config)
    assert changed == {"prior_bias": ("no such option", True), "gone": (1, "no such option")}


@pytest.mark.parametrize(("name", "value"), [("amp", "fp16"), ("loss", "focal"), ("uniform", "normal")])
def test_unknown_choices_are_named(options: list[str], name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is '{value}', expected one of \("):
        train_nih.parse_config([*options, f"--{name}={value}"])


def test_averages_follow_the_model_closely_at_first(tmp_path: Path, options: list[str]) -> None:
    options = [*options, "--epochs=1", "--ema-decay=0.9999", f"--output={tmp_path}"]
    state = train_nih.State(train_nih.parse_config(options), 2, torch.zeros(16, 14), {})
    start = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    train_nih.main(options)
    saved = load(tmp_path / "last.pt")

    def distance(other: dict[str, torch.Tensor], prefix: str) -> float:
        return sum(float((saved["ema"][f"module.{name}"] - other[prefix + name]).abs().sum()) for name in start)

    assert distance(saved["objective"], "model.") < distance(start, "")


def test_no_clipping_at_zero(tmp_path: Path, options: list[str]) -> None:
    train_nih.main([*options, "--epochs=1", "--clip-grad=0", f"--output={tmp_path / 'off'}"])
    train_nih.main([*options, "--epochs=1", "--clip-grad=1e9", f"--output={tmp_path / 'high'}"])
    off, high = (load(tmp_path / name / "last.pt") for name in ("off", "high"))
    assert_same(off["objective"], high["objective"])


def test_synchronised_batch_statistics_keep_activations() -> None:
    """torch's own conversion drops the activations of timm's BatchNormAct2d."""
    model = train_nih.build_model(train_nih.Config(model="causal_efficientnet_lite0")).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(train_nih.convert_sync_batchnorm(model).eval()(x), expected)


def test_three_processes_score_every_image_once_in_order(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("predict_in_processes.py"))
    path = os.pathsep.join(sys.path)
    for name, command in (
        ("one", []),
        ("three", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]),
    ):
        run = subprocess.run(
            [sys.executable, *command, script, str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        )
        assert run.returncode == 0, run.stderr
    one, three = (np.load(tmp_path / f"{name}.npz") for name in ("one", "three"))
    np.testing.assert_array_equal(one["targets"], three["targets"])
    for name in ("causal", "confounding"):
        np.testing.assert_allclose(one[name], three[name], atol=1e-5)
    assert one["intervened"].shape == three["intervened"].shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["none", "bfloat16", "float16"])
def test_trains_and_resumes_on_a_gpu(tmp_path: Path, options: list[str], amp: str) -> None:
    options = [*options, "--device=cuda", f"--amp={amp}", f"--output={tmp_path}"]
    train_nih.main(options)
    train_nih.main(options)  # nothing is left to do, but all is read again
    assert [record["epoch"] for record in load(tmp_path / "last.pt")["log"]] == [1, 2]
