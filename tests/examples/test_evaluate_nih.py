import json
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
    plain, causal = results["models"]["test_resnet"], results["models"]["causal_test_resnet"]
    assert plain["difference_from_first"] == {"mean_auroc": 0.0, "interval": [0.0, 0.0]}
    expected = causal["mean_auroc"] - plain["mean_auroc"]
    assert causal["difference_from_first"]["mean_auroc"] == pytest.approx(expected, abs=2e-4)
    assert set(plain["localisation"]) == {"Grad-CAM", "centre box"}
    assert set(causal["localisation"]) == {"Grad-CAM", "causal map", "confounding map", "centre box"}
    assert plain["localisation"]["centre box"] == causal["localisation"]["centre box"]
    assert causal["localisation"]["causal map"]["findings"] == 10
    assert set(causal["classifiers"]) == {"causal", "confounding", "intervened"}
    assert causal["classifiers"]["causal"]["mean_auroc"] == causal["mean_auroc"]
    assert sum(causal["groups"][name]["images"] for name in ("AP only", "PA only")) == 20
    assert sum(causal["groups"][name]["images"] for name in ("women", "men")) == 20
    assert sum(group["images"] for name, group in causal["groups"].items() if name.startswith("age")) == 20
    saved = np.load(report / "causal" / "scores-test.npz")
    assert causal["labels"]["Mass"]["auroc"] == pytest.approx(auroc(saved["causal"], saved["targets"])[MASS], abs=1e-4)


def test_writes_tables_and_figures(report: Path) -> None:
    text = (report / "report" / "results.md").read_text()
    for row in ("| Mass | 10 |", "| **mean of 14** |", "| PA only |", "| women |", "confounding map", "EVA-X-B 0.835"):
        assert row in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith(" |")
    for name in ("roc.png", "reliability.png", "panels.png", "training.png"):
        assert (report / "report" / name).read_bytes().startswith(b"\x89PNG")
    assert not list(report.rglob("*.partial"))


def test_scores_are_computed_once(report: Path, made_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = report / "causal" / "best.pt"
    expected = scoring.score(checkpoint, "test", "cpu").headline
    monkeypatch.setattr(scoring, "predict", None)
    np.testing.assert_array_equal(scoring.score(checkpoint, "test", "cpu").headline, expected)
    with pytest.raises(TypeError):  # another list of images is another matter
        scoring.score(checkpoint, "test", "cpu", data="synthetic:16")


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
    assert results["models"]["causal_test_resnet"]["localisation"] == {}
    assert not (tmp_path / "panels.png").exists()


class Linear(nn.Module):
    """A model whose Grad-CAM is known: channel c of the features counts w[c, k] for label k."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        return x.sum(dim=(2, 3)) @ self.weight


def test_grad_cam_of_a_linear_model() -> None:
    features, weight = torch.randn(2, 3, 4, 5), torch.randn(3, 6)
    expected = torch.einsum("bchw,c->bhw", features, weight[:, 4]).relu()
    torch.testing.assert_close(localisation.grad_cam(Linear(weight), features, 4), expected)


def test_grad_cam_needs_maps() -> None:
    model = Linear(torch.ones(3, 1))
    model.forward_features = lambda x: x.flatten(2).mT
    with pytest.raises(ValueError, match=r"needs feature maps \(B, C, H, W\), but Linear has \(1, 4, 3\)"):
        localisation.grad_cam(model, torch.ones(1, 3, 2, 2), 0)


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
        "b": [Box("Mass", 512, 512, 512, 512), Box("Mass", 0, 0, 4, 4)],
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
    assert figures["mean_iou"]["mean"] == pytest.approx(0.5, abs=1e-3)  # all of a, one pixel of b
    assert figures["mean_iou"]["interval"] == pytest.approx([0, 1], abs=1e-3)
    assert figures["share_with_iou_of"]["0.7"] == 0.5


def test_groups_cover_every_image_once_each_way() -> None:
    dataset: Any = SimpleNamespace(
        view=np.array(["AP", "PA", "PA"]), sex=np.array(["F", "F", "F"]), age=np.array([39.9, 40, 91])
    )
    named = {name: mask.tolist() for name, mask in groups.groups(dataset)}
    assert named == {
        "AP only": [True, False, False],
        "PA only": [False, True, True],
        "women": [True, True, True],
        "age 0 to 39": [True, False, False],
        "age 40 to 59": [False, True, False],
        "age 60 and over": [False, False, True],
    }


def test_records_alone_reach_what_the_docstring_says(shared_data: Path) -> None:
    tables = read_nih_tables(shared_data / "nih-tables")
    train, test = (
        SimpleNamespace(**{**vars(part), "targets": torch.from_numpy(part.targets)})
        for part in (tables.split("train_val"), tables.split("test"))
    )
    assert auroc(groups.metadata_floor(train, test), test.targets).mean() == pytest.approx(0.636, abs=1e-3)
