import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evaluate_nih
import groups
import localisation
import scoring
import train_nih
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import Box, read_nih_tables
from causalcxr.metrics import auroc

MASS = NIH_LABELS.index("Mass")


@pytest.fixture(scope="module")
def report(made_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two runs and the report on them."""
    folder = tmp_path_factory.mktemp("evaluation")
    small = ["--image-size=64", "--batch-size=8", "--bank-size=12", "--workers=0", "--device=cpu", "--epochs=1"]
    for name, model in (("plain", "test_resnet"), ("causal", "causal_test_resnet")):
        train_nih.main([f"--data={made_release}", f"--model={model}", f"--output={folder / name}", *small])
    checkpoints = [str(folder / name / "best.pt") for name in ("plain", "causal")]
    common = [f"--data={made_release}", "--resamples=20", "--device=cpu", "--workers=0"]
    evaluate_nih.main([*checkpoints, *common, f"--output={folder / 'report'}"])
    return folder


def test_reports_both_models_on_the_test_list(report: Path) -> None:
    results = json.loads((report / "report" / "results.json").read_text())
    assert results["images"]["images"] == 20
    assert results["patients"] == 10
    plain, causal = results["models"]["plain"], results["models"]["causal"]
    assert plain["difference_from_first"] == {"mean_auroc": 0.0, "interval": [0.0, 0.0]}
    expected = causal["mean_auroc"] - plain["mean_auroc"]
    assert causal["difference_from_first"]["mean_auroc"] == pytest.approx(expected, abs=2e-4)
    assert set(plain["localisation"]) == {"Grad-CAM", "centre box"}
    assert set(causal["localisation"]) == {"Grad-CAM", "causal map", "confounding map", "centre box"}
    assert plain["localisation"]["centre box"] == causal["localisation"]["centre box"]
    assert causal["localisation"]["causal map"]["findings"] == 10
    assert set(causal["classifiers"]) == {"causal", "confounding", "intervened"}
    assert causal["classifiers"]["causal"]["mean_auroc"] == causal["mean_auroc"]
    assert causal["groups"] == {}  # no finding has ten patients on either side
    saved = np.load(report / "causal" / "scores-test.npz")
    assert causal["labels"]["Mass"]["auroc"] == pytest.approx(auroc(saved["causal"], saved["targets"])[MASS], abs=1e-4)


def test_writes_tables_and_figures(report: Path) -> None:
    text = (report / "report" / "results.md").read_text()
    for row in ("| Mass | 10 |", "| **mean of 14** |", "confounding map", "EVA-X-B 0.835"):
        assert row in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith(" |")
    for name in ("roc.png", "reliability.png", "panels.png", "training.png"):
        assert (report / "report" / name).read_bytes().startswith(b"\x89PNG")
    assert not list(report.rglob("*.partial"))


@pytest.mark.parametrize("changed", ["nothing", "checkpoint", "folder", "code", "uncommitted code"])
def test_scores_are_read_again_for_the_same_only(
    report: Path, made_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(scoring, "commit", lambda: "some commit")
    shutil.copytree(report / "causal", tmp_path / "causal")
    checkpoint, data = tmp_path / "causal" / "best.pt", made_release
    expected = scoring.score(checkpoint, "test", "cpu").headline
    monkeypatch.setattr(scoring, "predict", not_called)
    if changed == "nothing":
        np.testing.assert_array_equal(scoring.score(checkpoint, "test", "cpu").headline, expected)
        return
    if changed == "checkpoint":
        saved = torch.load(checkpoint, weights_only=True)
        saved["state_dict"]["head.causal_classifier.bias"] += 1
        torch.save(saved, checkpoint)
    elif changed == "folder":
        data = tmp_path / "copy"
        shutil.copytree(made_release, data)
    else:
        monkeypatch.setattr(scoring, "commit", lambda: "other" if changed == "code" else "some commit-dirty")
    with pytest.raises(AssertionError, match="scored anew"):
        scoring.score(checkpoint, "test", "cpu", data=str(data))


def not_called(*args: object) -> None:
    raise AssertionError("scored anew")


def test_scores_in_another_order_are_refused(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(report / "causal", tmp_path / "causal")
    monkeypatch.setattr(scoring, "predict", reversed_rows(scoring.predict))
    monkeypatch.setattr(scoring, "commit", lambda: "new commit")
    with pytest.raises(ValueError, match=r"scores-test.npz has other labels than .*, or in another order; delete it"):
        scoring.score(tmp_path / "causal" / "best.pt", "test", "cpu")


def reversed_rows(predict: Any) -> Any:
    return lambda *args: {name: values[::-1] for name, values in predict(*args).items()}


def test_runs_on_other_training_images_are_not_compared(report: Path) -> None:
    one = scoring.score(report / "causal" / "best.pt", "test", "cpu")
    other = one._replace(saved=one.saved | {"lists": one.saved["lists"] | {"train": {"images": 5}}})
    with pytest.raises(ValueError, match=r"cannot be compared, their images \(train\) differ: .*'images': 5"):
        scoring.check_comparable(one, other)


def test_two_runs_of_one_name_are_refused(report: Path, made_release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(report / "plain" / "best.pt")
    with pytest.raises(SystemExit):
        evaluate_nih.main([checkpoint, checkpoint, f"--data={made_release}", f"--output={report}", "--device=cpu"])
    assert "two runs are called plain" in capsys.readouterr().err


def test_refuses_a_checkpoint_with_other_labels(report: Path, tmp_path: Path) -> None:
    saved = torch.load(report / "causal" / "best.pt", weights_only=True)
    saved["label_names"] = saved["label_names"][::-1]
    torch.save(saved, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="order"):
        scoring.load_checkpoint(tmp_path / "best.pt", "cpu")


def test_generated_radiographs_have_a_report_without_boxes(tmp_path: Path, options: list[str]) -> None:
    train_nih.main([*options, "--epochs=1", f"--output={tmp_path}"])
    common = ["--data=synthetic:100", f"--output={tmp_path}", "--resamples=10", "--device=cpu", "--workers=0"]
    evaluate_nih.main([str(tmp_path / "best.pt"), *common])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["models"][tmp_path.name]["localisation"] == {}
    assert not (tmp_path / "panels.png").exists()


class Linear(nn.Module):
    """A model whose Grad-CAM is known: channel c of the features counts w[c, k] for label k."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.num_features = weight, len(weight)

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        return x.sum(dim=(2, 3)) @ self.weight


def test_grad_cam_of_a_linear_model() -> None:
    features, weight = torch.randn(2, 3, 4, 5), torch.randn(3, 6)
    expected = torch.einsum("bchw,c->bhw", features, weight[:, 4]).relu()
    torch.testing.assert_close(localisation.grad_cam(Linear(weight), features, 4), expected)


def test_grad_cam_of_maps_with_channels_last_and_of_tokens() -> None:
    features, weight = torch.randn(2, 3, 4, 5), torch.randn(3, 6)
    last = Linear(weight)
    last.forward_features = lambda x: x.permute(0, 2, 3, 1)
    last.forward_head = lambda x: x.sum(dim=(1, 2)) @ weight
    torch.testing.assert_close(
        localisation.grad_cam(last, features, 4), localisation.grad_cam(Linear(weight), features, 4)
    )
    tokens = Linear(weight)
    tokens.forward_features = lambda x: x.flatten(2).mT
    tokens.forward_head = lambda x: x.sum(dim=1) @ weight
    assert localisation.grad_cam(tokens, features, 4) is None


def test_centre_prior_is_a_box_of_half_the_side() -> None:
    prior, side = localisation.centre_prior(), localisation.MAP_SIDE
    rows, columns = torch.where(prior >= 0.5)
    assert (int(rows.min()), int(rows.max()) + 1) == (side // 4, side // 4 * 3)
    assert (int(columns.min()), int(columns.max()) + 1) == (side // 4, side // 4 * 3)


class MarkedImages:
    """Two images with boxes, upper left and lower right, and one without."""

    names = ("a", "none", "b")
    boxes: ClassVar = {
        "a": [Box("Mass", 0, 0, 512, 512)],
        "b": [Box("Mass", 512, 512, 512, 512), Box("Mass", 500, 0, 8, 8)],
    }
    patient = np.array([1, 1, 2])

    def __getitem__(self, index: int) -> tuple[Tensor, None]:
        return torch.zeros(1, 8, 8), None


def test_localisation_of_maps_that_are_right_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    upper_left = torch.zeros(256, 256)
    upper_left[:128, :128] = 1
    monkeypatch.setattr(localisation, "heat_maps", lambda model, image, label: {"map": upper_left})
    figures = localisation.localise(nn.Identity(), MarkedImages(), n_resamples=50)["map"]
    assert figures["findings"] == 2
    assert figures["pointing_game"]["mean"] == 0.5
    assert figures["mean_iou"]["mean"] == pytest.approx(0.5, abs=1e-3)  # all of a, next to nothing of b
    assert figures["mean_iou"]["interval"] == pytest.approx([0, 1], abs=1e-3)
    assert figures["share_with_iou_of"]["0.7"] == 0.5


def test_divisions_cover_every_image_once() -> None:
    dataset: Any = SimpleNamespace(
        view=np.array(["AP", "PA", "PA"]), sex=np.array(["F", "F", "F"]), age=np.array([39.9, 40, 91])
    )
    divisions = groups.divisions(dataset)
    for division in divisions:
        assert np.sum(list(division.values()), axis=0).tolist() == [1, 1, 1]
    assert [mask.tolist() for mask in divisions[2].values()] == np.eye(3, dtype=bool).tolist()


def test_groups_are_judged_on_the_labels_that_all_of_them_have() -> None:
    rng = np.random.default_rng(0)
    view, n = np.array(["AP", "PA"] * 60), 120
    targets = torch.zeros(n, 14)
    targets[:, 0] = torch.from_numpy(rng.random(n) < 0.5)
    targets[:2, 1] = 1  # in both views, but of a patient each
    targets[::2, 2] = torch.from_numpy(rng.random(60) < 0.5)  # in AP alone
    records: Any = SimpleNamespace(view=view, sex=np.full(n, "F"), age=np.full(n, 50.0), patient=np.arange(n))
    records.targets = targets
    scores = rng.normal(size=(n, 14))
    figures = groups.by_group(scores, records, 10)
    assert figures["AP only"]["labels"] == figures["PA only"]["labels"] == ["Atelectasis"]
    assert figures["women"]["labels"] == ["Atelectasis", "Effusion"]
    expected = auroc(scores[::2, 0], targets[::2, 0])
    assert figures["AP only"]["mean_auroc"] == pytest.approx(float(expected[0]), abs=1e-4)
    assert "men" not in figures


def test_records_alone_reach_what_the_docstring_says(shared_data: Path) -> None:
    tables = read_nih_tables(shared_data / "nih-tables")
    train, test = tables.split("train_val"), tables.split("test")
    assert auroc(groups.metadata_floor(train, test), test.targets).mean() == pytest.approx(0.636, abs=1e-3)
