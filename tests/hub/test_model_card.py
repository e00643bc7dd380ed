"""Model cards from the files that the examples write."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from causalcxr.data import NIH_LABELS
from causalcxr.model_card import model_card


@pytest.fixture
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def content(evaluation: Path) -> dict[str, Any]:
    return json.loads(evaluation.read_text())


def _of_weights(content: dict[str, Any]) -> dict[str, Any]:
    """Return the same figures as the JSON beside exported weights has them."""
    (figures,) = content["models"].values()
    about = {"about": "Patients 1 to 9.", "test_images": content["images"], "model": "causal_test_resnet"}
    return {**figures["training"], **about, "test": {key: figures[key] for key in figures if key != "training"}}


@pytest.mark.parametrize("form", ["report", "weights", "file"])
def test_card_reports_the_evaluation(config: dict[str, Any], content: Any, evaluation: Path, form: str) -> None:
    given = {"report": content, "weights": _of_weights(content), "file": evaluation}[form]
    text = model_card(config, "owner/repo", given)
    card = ModelCard(text)
    results = {result.metric_name: result for result in card.data.eval_results}
    assert set(results) == {"mean AUROC", *(f"AUROC {name}" for name in NIH_LABELS[:13])}  # Hernia has none
    assert results["mean AUROC"].metric_value == 0.7
    assert results["AUROC Mass"].metric_value == pytest.approx(0.64)
    for result in results.values():
        assert (result.dataset_name, result.dataset_split) == ("NIH ChestX-ray14", "test")
        assert (result.task_type, result.metric_type) == ("image-classification", "roc_auc")
    assert (card.data.library_name, card.data.license) == ("causalcxr", "apache-2.0")
    for said in (
        "**Not for clinical use.**",
        'create_model("hf-hub:owner/repo")',
        "on 1492 images (NIH ChestX-ray14, test): **0.700 (0.650, 0.750)**",
        "Trained on 7000 images, epoch 3 of 6 chosen on 1500 others (AUROC 0.740); seed 5, commit `abc`.",
        "| Mass | 9 | 0.640 (0.600, 0.680) |",
        "| AP only | 700 | 0.680 (0.600, 0.700) |",
        "96x96 px, and 14 labels: Atelectasis, Cardiomegaly, ",
    ):
        assert said in text
    assert ("Patients 1 to 9." in text) == (form == "weights")


def test_generated_radiographs_are_not_called_nih(config: dict[str, Any], content: Any) -> None:
    content["images"]["label_file"] = "generated"
    text = model_card(config, "owner/repo", content)
    assert "generated radiographs (no patients)" in text
    assert "NIH" not in text


def test_card_says_whether_scores_are_probabilities(config: dict[str, Any]) -> None:
    thresholds = [0.25, *[k / 14 for k in range(13)]]
    given = config | {"calibration": {"temperature": 1.2345, "thresholds": thresholds}}
    text = model_card(given, "owner/repo")
    assert "makes probabilities of the logits, with temperature 1.23, " in text
    assert "| label | threshold |" in text
    assert "| Atelectasis | 0.25 |" in text
    assert "| Mass | 0.214 |" in text
    assert "| label 0 | 0.25 |" in model_card(given | {"label_names": None}, "owner/repo")
    assert "Scores are not calibrated" not in text
    text = model_card(config | {"calibration": None}, "owner/repo")
    assert "Scores are not calibrated probabilities, and no thresholds are given." in text
    assert "threshold |" not in text


def test_card_without_evaluation(config: dict[str, Any]) -> None:
    card = ModelCard(model_card(config | {"label_names": None}, "owner/repo"))
    assert card.data.eval_results is None
    assert "None was given." in card.text
    assert "14 labels, without names" in card.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.clear(), "must be results.json of examples/evaluate_nih.py or .*, but lacks 'test'"),
        (lambda c: c.pop("split"), "but lacks 'split'"),
        (lambda c: c["models"]["run"].pop("interval"), "but lacks 'interval'"),
        (lambda c: c["models"]["run"]["training"].pop("lists"), "but lacks 'lists'"),
        (lambda c: c["models"].update(plain={}), "must be of one model, but is of run, plain; evaluate it alone"),
        (lambda c: c["models"]["run"]["labels"].pop("Mass"), "13 label names given, 14 expected"),
    ],
)
def test_evaluations_that_do_not_fit(config: dict[str, Any], content: Any, change: Any, message: str) -> None:
    change(content)
    with pytest.raises(ValueError, match=message):
        model_card(config, "owner/repo", content)
