"""Evaluation of trained models on labelled images."""

import json
import re

import numpy as np
import pytest
import torch

import causalcxr
import evaluate
from causalcxr.data import NIH_LABELS, CSVDataset, NIHChestXray14
from causalcxr.metrics import auroc

pytestmark = pytest.mark.filterwarnings("ignore:AUROC is undefined")


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    saved = causalcxr.create_model("causal_test_resnet")
    causalcxr.save_pretrained(saved, folder, label_names=NIH_LABELS, data_config={"input_size": (3, 64, 64)})
    return folder


def run(*arguments):
    evaluate.main([*map(str, arguments), "--resamples=20", "--workers=0", "--device=cpu"])


def test_the_figures_are_those_of_the_logits(model, made_release, tmp_path):
    run(model, "--data", made_release, "--output", tmp_path)
    result = json.loads((tmp_path / f"model-{made_release.name}-test.json").read_text())
    dataset = NIHChestXray14(made_release, "test", image_size=64)
    opened = causalcxr.create_model(model).eval()
    with torch.no_grad():
        logits = torch.cat([opened(opened.preprocess(path)) for path in dataset.paths])
    expected = auroc(logits, dataset.targets)
    found = [result["auroc"].get(label, {"value": np.nan})["value"] for label in NIH_LABELS]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert result["images"] == len(dataset)
    assert result["auroc"]["Mass"]["positive_groups"] <= result["patients"]


def test_a_model_is_compared_with_the_first(model, made_release, capsys):
    again = model.with_name("again")
    again.symlink_to(model)
    run(model, again, "--data", made_release)
    assert json.loads((again / f"{made_release.name}-test.json").read_text())["difference"]["value"] == 0
    said = capsys.readouterr().out
    assert re.search(r"\| Mass \|.* 0\.89 \|\n", said)  # from the paper
    assert "| mean, AP films |" in said


def test_labels_of_another_table(model, made_release, tmp_path):
    """The table has YES and NO, label names with spaces, unknown cells and unknown images."""
    dataset = NIHChestXray14(made_release, "test", image_size=64)
    table = tmp_path / "labels.csv"
    first, second, third = dataset.names[:3]
    table.write_text(f"Image ID,Pleural Thickening,Mass\n{first},YES,0\n{second},NO,?\n{third},no,1\nother.png,YES,1\n")
    targets = evaluate.other_labels(table, dataset)
    expected = np.full((len(dataset), 14), np.nan)
    expected[:3, NIH_LABELS.index("Pleural_Thickening")] = 1, 0, 0
    expected[[0, 2], NIH_LABELS.index("Mass")] = 0, 1
    np.testing.assert_array_equal(targets, expected)
    run(model, "--data", made_release, "--labels", table, "--output", tmp_path)
    result = json.loads((tmp_path / f"model-{made_release.name}-labels-test.json").read_text())
    assert result["auroc"]["mean"]["labels"] == 2
    table.write_text("Image ID,Fracture\n")
    with pytest.raises(SystemExit, match="is a label of the model"):
        evaluate.other_labels(table, dataset)


def test_own_films_from_a_table(model, made_release, tmp_path, capsys):
    """Results match the logits, omit views and the paper, and a damaged image is named."""
    films = NIHChestXray14(made_release, "test", image_size=64)
    named = causalcxr.create_model(model, label_names=["Drain", "Mass"])
    causalcxr.save_pretrained(named, tmp_path / "mine", data_config={"input_size": (3, 64, 64)})
    rows = [f"{films.paths[i]},p{films.patient[i]},{i % 2},{i % 3 % 2 or ''}" for i in range(len(films))]
    table = tmp_path / "films.csv"
    table.write_text("path,patient,Drain,Mass\n" + "\n".join(rows))
    run(tmp_path / "mine", "--data", table)
    result, said = json.loads((tmp_path / "mine" / "films-all.json").read_text()), capsys.readouterr().out
    opened, dataset = causalcxr.create_model(tmp_path / "mine").eval(), CSVDataset(table, "all")
    with torch.no_grad():
        logits = torch.cat([opened(opened.preprocess(image)) for image, _ in dataset])
    assert result["auroc"]["Drain"]["value"] == pytest.approx(auroc(logits, dataset.targets)[0], abs=1e-3)
    assert (result["data"], result["split"], result["images"]) == ("films.csv", "all", len(films))
    causalcxr.save_pretrained(opened, tmp_path / "mine", metrics=result)
    assert "AUROC on films.csv, all, images: " in (tmp_path / "mine" / "README.md").read_text()
    assert "| Drain |" in said
    assert "paper" not in said
    assert "AP films" not in said
    run(tmp_path / "mine", "--data", table, "--split=val", "--val-fraction=0.5")
    assert json.loads((tmp_path / "mine" / "films-val.json").read_text())["patients"] == len({*films.patient}) // 2
    other = ["{0},AP,{3},{1},{2}".format(*row.split(",")) for row in rows]
    table.write_text("path,view,Mass,patient,Drain\n" + "\n".join(other))  # columns are matched by name
    run(tmp_path / "mine", "--data", table)
    again = json.loads((tmp_path / "mine" / "films-all.json").read_text())
    assert again["auroc"]["Drain"]["value"] == result["auroc"]["Drain"]["value"]
    swapped = causalcxr.create_model(model, label_names=["Mass", "Drain"])
    causalcxr.save_pretrained(swapped, tmp_path / "swapped", data_config={"input_size": (3, 64, 64)})
    with pytest.raises(SystemExit, match=r"^cannot evaluate .*swapped: label names must be exactly these"):
        run(tmp_path / "mine", tmp_path / "swapped", "--data", table)
    table.write_text("path,patient,Mass\n")
    with pytest.raises(SystemExit, match=r"^cannot evaluate .*mine: unknown label 'Drain'"):
        run(tmp_path / "mine", "--data", table)
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    table.write_text("path,Drain,Mass\ndamaged.png,1,0\n")
    with pytest.raises(SystemExit, match=r"cannot read image .*damaged\.png"):
        run(tmp_path / "mine", "--data", table)


def test_models_whose_files_would_have_one_name_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("s0/model", "s1/model/", "--data=synthetic:8", "--output", tmp_path)
    assert "needs models that differ" in capsys.readouterr().err
