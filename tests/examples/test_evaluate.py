"""Evaluation of trained models on labelled images."""

import json
import re

import numpy as np
import pytest
import torch

import causalcxr
import evaluate
from causalcxr.data import NIH_LABELS, NIHChestXray14
from causalcxr.metrics import auroc, expected_calibration_error

pytestmark = pytest.mark.filterwarnings("ignore:AUROC is undefined", "ignore:calibration error is")


def saved(folder, label_names, **options):
    """Save an untrained model of images of 64 x 64 pixels, and return its folder."""
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", label_names=label_names)
    causalcxr.save_pretrained(model, folder, data_config={"input_size": (3, 64, 64)}, **options)
    return folder


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path / "model", NIH_LABELS, calibration=causalcxr.Calibration(2.0, (0.5,) * 14))


def run(*arguments):
    evaluate.main([*map(str, arguments), "--resamples=20", "--workers=0", "--device=cpu"])


def test_two_models_on_the_release(model, made_release, tmp_path, capsys):
    """The figures are those of the logits, next to the paper's, and the second model is compared with the first."""
    again = model.with_name("again")
    again.symlink_to(model)
    run(model, again, "--data", made_release, "--output", tmp_path)
    result, second = (
        json.loads((tmp_path / f"{name}-{made_release.name}-test.json").read_text()) for name in ("model", "again")
    )
    dataset = NIHChestXray14(made_release, "test", image_size=64)
    opened = causalcxr.create_model(model).eval()
    with torch.no_grad():
        logits = torch.cat([opened(opened.preprocess(path)) for path in dataset.paths])
    found = [result["auroc"].get(label, {"value": np.nan})["value"] for label in NIH_LABELS]
    np.testing.assert_allclose(found, auroc(logits, dataset.targets), atol=1e-3)
    errors = expected_calibration_error((logits / 2).sigmoid(), dataset.targets)
    assert result["expected_calibration_error"] == pytest.approx(np.nanmean(errors), abs=1e-3)
    assert result["images"] == len(dataset)
    assert second["difference"]["value"] == 0
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


def test_own_films_from_a_table(made_release, tmp_path, capsys):
    """Labels are found by name, and a column `view` is used. Films of patients in the training data give a warning."""
    films = NIHChestXray14(made_release, "test")
    mine, table = saved(tmp_path / "mine", ["Drain", "Mass"]), tmp_path / "films.csv"
    rows = [f"{films.paths[i]},AP,{i % 3 % 2 or ''},p{films.patient[i]},{i % 2}" for i in range(len(films))]
    table.write_text("\n".join(["path,view,Mass,patient,Drain", *rows]))
    (mine / "train_patients.txt").write_text(f"p{films.patient[0]}\nother")
    there = sum(films.patient == films.patient[0])
    with pytest.warns(UserWarning, match=f"^{there} of {len(films)} films have the patient names of films"):
        run(mine, "--data", table)
    (mine / "train_patients.txt").unlink()
    where = f"{tmp_path.name}-films"
    result, said = json.loads((mine / f"{where}-all.json").read_text()), capsys.readouterr().out
    assert result["auroc"]["Drain"]["positives"] == len(films) // 2  # Mass has a third
    assert (result["data"], result["split"], result["images"]) == ("films.csv", "all", len(films))
    assert "| Drain |" in said
    assert "paper" not in said
    assert result["auroc_ap"] == result["auroc"]
    assert "auroc_pa" not in result
    causalcxr.save_pretrained(causalcxr.create_model(mine), mine, metrics=result)
    assert "AUROC on films.csv, all, images: " in (mine / "README.md").read_text()
    run(mine, "--data", table, "--split=val", "--val-fraction=0.5")
    assert json.loads((mine / f"{where}-val.json").read_text())["patients"] == len({*films.patient}) // 2
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    table.write_text(f"path,Drain,Mass\ndamaged.png,1,0\n{films.paths[0]},0,1\n")
    with pytest.raises(SystemExit, match=r"cannot read image .*damaged\.png"):
        run(mine, "--data", table)
    with pytest.raises(SystemExit, match=r"^cannot evaluate no_model on .*films.csv: "):  # before a film is read
        run(mine, "no_model", "--data", table)
    table.write_text("path,Drain,Mass\ndamaged.png,1,0\n")
    with pytest.raises(SystemExit, match="intervals over patients need at least two"):
        run(mine, "--data", table)


def test_views_that_cannot_be_judged(model, made_release, tmp_path, capsys):
    """AP has one patient and is left out. No label of PA has both classes: null in JSON, and a dash in the table."""
    for path in made_release.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (table,) = tmp_path.glob("Data_Entry*.csv")
    header, *rows = (row.split(",") for row in table.read_text().splitlines())
    tested = (made_release / "test_list.txt").read_text().split()
    for row in (row for row in rows if row[0] in tested):
        row[1], row[6] = ("Mass", "AP") if row[0] == tested[0] else ("No Finding", "PA")
    table.unlink()
    table.write_text("".join(f"{','.join(row)}\n" for row in [header, *rows]))
    with pytest.warns(UserWarning, match="auroc_ap: fewer than two patients, so no interval: left out"):
        run(model, "--data", tmp_path)
    text = (model / f"{tmp_path.name}-test.json").read_text()
    assert "NaN" not in text
    result = json.loads(text)
    assert "auroc_ap" not in result
    assert (result["auroc"]["mean"]["labels"], result["auroc_pa"]["mean"]["value"]) == (1, None)
    assert re.search(r"\| mean, PA films \| 0 labels, .* \| - \|", capsys.readouterr().out)


def test_drawn_films_and_a_model_whose_labels_are_in_another_order(model, tmp_path):
    run(model, "--data=synthetic:8")
    assert json.loads((model / "synthetic-8-test.json").read_text())["images"] == 8
    swapped = saved(tmp_path / "swapped", NIH_LABELS[::-1])
    with pytest.raises(SystemExit, match=r"^cannot evaluate .*swapped on .*: label names must be exactly these"):
        run(model, swapped, "--data=synthetic:8")


def test_models_whose_files_would_have_one_name_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("s0/model", "s1/model/", "--data=synthetic:8", "--output", tmp_path)
    assert "needs models that differ" in capsys.readouterr().err
