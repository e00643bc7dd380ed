import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ablate_nih
import scoring
from causalcxr.metrics import auroc

STUDIES = sorted((Path(ablate_nih.__file__).parent / "studies").glob("*.json"))
BASE = {
    "model": "test_resnet",
    "image_size": 64,
    "batch_size": 8,
    "epochs": 1,
    "bank_size": 12,
    "workers": 0,
    "device": "cpu",
}


def written(folder: Path, **changes: Any) -> Path:
    study = {
        "base": BASE,
        "variants": {"plain": {}, "causal": {"model": "causal_test_resnet", "feature_learning": False}},
        "seeds": [0, 1],
        "baseline": "plain",
    }
    path = folder / "study.json"
    path.write_text(json.dumps(study | changes))
    return path


def run(study: Path, folder: Path, *extra: str) -> dict[str, Any]:
    target = folder / "results.json"
    common = ["--data=synthetic:64", f"--output={folder / 'runs'}", "--device=cpu", "--resamples=20"]
    ablate_nih.main([str(study), *common, "--split=val", f"--json={target}", *extra])
    return json.loads(target.read_text())


def test_trains_compares_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "commit", lambda: "some commit")  # scores of changed code are not read again
    study = written(tmp_path)
    run(study, tmp_path, "--seeds", "0")
    first = tmp_path / "runs" / "causal-seed0"
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    results = run(study, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    assert not list((tmp_path / "runs").rglob("*.partial"))

    variants = results["variants"]
    assert [run["seed"] for run in variants["causal"]["runs"]] == [0, 1]
    assert results["images"]["images"] == 64
    for name, variant in variants.items():
        means = []
        for seed in (0, 1):
            scores = np.load(tmp_path / "runs" / f"{name}-seed{seed}" / "scores-val.npz")
            means.append(auroc(scores["plain" if name == "plain" else "causal"], scores["targets"]).mean())
        assert variant["mean_auroc"] == pytest.approx(np.mean(means), abs=1e-4)
        assert variant["mean_auroc"] == pytest.approx(
            np.mean([label["auroc"] for label in variant["labels"].values()]), abs=1e-3
        )
    difference = variants["causal"]["mean_auroc"] - variants["plain"]["mean_auroc"]
    assert variants["causal"]["minus_baseline"] == pytest.approx(difference, abs=2e-4)
    assert variants["plain"]["minus_baseline_interval"] == [0.0, 0.0]
    assert variants["causal"]["runs"][0]["training"]["log"][0]["epoch"] == 1
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("Better than plain: ")
    assert "epochs were chosen on these same images" in text
    assert "| causal | 0, 1 |" in text
    assert "| Hernia | " in text
    assert text in capsys.readouterr().out


def test_refuses_finished_runs_with_other_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate_nih, "subprocess", SimpleNamespace(run=_in_this_process))
    run(written(tmp_path), tmp_path, "--seeds=0", "--variants=plain")
    with pytest.raises(ValueError, match=r"other arguments, then and now: {'lr': \(0.0005, 0.01\)}"):
        run(written(tmp_path, base={**BASE, "lr": 0.01}), tmp_path, "--seeds=0", "--variants=plain")


def test_refuses_variants_on_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate_nih, "subprocess", SimpleNamespace(run=_in_this_process))
    study = written(tmp_path, variants={"plain": {}, "other": {"split_seed": 1}})
    with pytest.raises(ValueError, match=r"cannot be compared, their images \(train\) differ.*same data, val_fraction"):
        run(study, tmp_path, "--seeds=0")


def _in_this_process(command: list[str], check: bool) -> None:
    ablate_nih.train_nih.main(command[2:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, "the baseline 'none' is none of the variants"),
        ({"bases": {}}, "has .'base', 'baseline', 'bases', 'seeds', 'variants'., expected .'base', 'baseline',"),
        ({"base": {"learning_rate": 1.0}}, "base has 'learning_rate', which is no option of a study"),
        ({"base": {"seed": 1}}, "base has 'seed', which is no option of a study"),
        ({"variants": {"plain": {"epochs": 1.5}}}, "plain has epochs=1.5, expected a value of type int"),
        ({"variants": {"plain": {"mirror": 1}}}, "plain has mirror=1, expected a value of type bool"),
        ({"variants": {"plain": {"amp": "fp16"}}}, "amp is 'fp16', expected one of .'none', 'bfloat16', 'float16'."),
    ],
)
def test_refuses_wrong_studies(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablate_nih.read_study(written(tmp_path, **changes))


def test_unknown_variants_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(written(tmp_path), tmp_path, "--variants", "causal", "casual")
    assert "unknown variants ['casual']; there are ['plain', 'causal']" in capsys.readouterr().err


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_committed_studies_can_be_read(path: Path) -> None:
    study = ablate_nih.read_study(path)
    assert study.seeds
    assert len(study.variants) > 1


@pytest.mark.parametrize(
    ("interval", "of_seeds", "kind"),
    [
        ([0.01, 0.02], [0.01, 0.02], "Better than plain: no_BD"),
        ([0.01, 0.02], [-0.01, 0.04], "not told apart from plain: no_BD"),
        ([-0.2, -0.1], [-0.1, -0.2], "worse than plain: no_BD"),
        ([-0.1, 0.1], [0.01, 0.01], "not told apart from plain: no_BD"),
    ],
)
def test_verdict_goes_by_interval_and_seeds(interval: list[float], of_seeds: list[float], kind: str) -> None:
    runs = [{"minus_baseline": value} for value in of_seeds]
    figures = {"plain": {"minus_baseline_interval": [0, 0], "runs": []}}
    figures["no_BD"] = {"minus_baseline_interval": interval, "runs": runs}
    assert kind in ablate_nih.verdict(figures, "plain")
