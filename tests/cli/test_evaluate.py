"""`causalcxr evaluate`: tables of scores against tables of labels."""

import csv
import io
import json
import os
import re

import numpy as np
import pytest

from causalcxr.metrics import auroc, bootstrap_auroc


@pytest.fixture
def tables(tmp_path):
    """Scores and labels of 60 images of 20 patients, in different folders and order, with one unknown label.

    Labels are written as by hand, pandas or Excel.
    """
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (60, 2)).astype(float)
    scores = (targets + rng.normal(size=(60, 2))).round(4)
    targets[3, 1] = np.nan
    rows = ["path,Mass,Hernia", *(f"here/{i}.png,{scores[i, 0]},{scores[i, 1]}" for i in range(60))]
    (tmp_path / "scores.csv").write_text("\n".join(rows))
    rows = ["Hernia,image,Mass,patient,view"]
    for i in reversed(range(60)):
        hernia = "" if np.isnan(targets[i, 1]) else int(targets[i, 1])
        mass = (["0", "0.00", "False", "FALSE"], ["1", "1.00", "True", "TRUE"])[int(targets[i, 0])][i % 4]
        rows.append(f"{hernia},there/{i}.png,{mass},{' ' * (i % 2)}p{i // 3},{'AP' if i < 24 else 'PA'}{' ' * (i % 2)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "scores.csv", tmp_path / "labels.csv", scores, targets


def _rows(out):
    return {(row["group"], row["label"]): row for row in csv.DictReader(io.StringIO(out))}


def test_evaluate_is_auroc_with_intervals_over_patients(run, tables):
    scores_csv, labels_csv, scores, targets = tables
    patients = np.arange(60) // 3
    code, out, err = run("evaluate", scores_csv, labels_csv, "--patients=patient", "--group=view", "--format=csv")
    assert (code, err) == (0, "")
    rows = _rows(out)
    assert {group for group, _ in rows} == {"all images", "view = AP", "view = PA"}
    for group, chosen in {"all images": slice(None), "view = AP": slice(24), "view = PA": slice(24, None)}.items():
        expected = bootstrap_auroc(scores[chosen], targets[chosen], patients[chosen])
        for k, label in enumerate(["Mass", "Hernia"]):
            row = rows[group, label]
            assert int(row["images"]) == np.count_nonzero(~np.isnan(targets[chosen, k]))
            assert int(row["positives"]) == np.nansum(targets[chosen, k])
            assert int(row["patients"]) == len(np.unique(patients[chosen][targets[chosen, k] == 1]))
            assert float(row["auroc"]) == expected.per_label.value[k]
            # Percentiles differ because the patients are in another order.
            assert float(row["low"]) == pytest.approx(expected.per_label.low[k], abs=0.03)
            assert float(row["high"]) == pytest.approx(expected.per_label.high[k], abs=0.03)
        assert float(rows[group, "mean of 2"]["auroc"]) == pytest.approx(expected.mean.value)
        assert rows[group, "mean of 2"]["positives"] == ""


def test_evaluate_says_that_intervals_over_images_are_too_narrow(run, tables):
    code, out, err = run("evaluate", *tables[:2], "--format=csv")
    assert (code, "pass --patients COLUMN" in err) == (0, True)
    expected = bootstrap_auroc(tables[2], tables[3])
    row = _rows(out)["all images", "Mass"]
    assert float(row["low"]) == pytest.approx(expected.per_label.low[0])
    assert row["patients"] == ""


def test_evaluate_needs_two_images(run, tables):
    tables[0].write_text("".join(tables[0].read_text().splitlines(keepends=True)[:2]))
    code, out, err = run("evaluate", *tables[:2])
    assert (code, out) == (2, "")
    assert err.endswith(f"error: intervals need at least two images, but {tables[0]} has one\n")


def test_evaluate_prints_a_table_and_strict_json(run, tables):
    tables[1].write_text(tables[1].read_text().replace("p0,AP", "p0,XX"))
    arguments = ["evaluate", *tables[:2], "--patients=patient", "--group=view"]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "warning: view = XX has only one patient or image, so no interval: left out\n")
    lines = out.splitlines()
    assert lines[0] == "all images"
    assert lines[2].split()[:3] == ["Mass", "60", str(int(tables[3][:, 0].sum()))]
    assert float(lines[2].split()[4]) == pytest.approx(auroc(tables[2][:, 0], tables[3][:, 0])[0], abs=6e-4)
    read = json.loads(run(*arguments, "--format=json")[1], parse_constant=lambda constant: pytest.fail(constant))
    assert (read[0]["label"], read[0]["incomplete"]) == ("Mass", 0)


def test_an_interval_of_one_positive_patient_is_marked(run, tables):
    """All resamples with that patient agree, so the interval looks certain."""
    arguments = ["evaluate", *tables[:2], "--patients=patient"]
    assert "*" not in run(*arguments)[1]
    head, *rows = tables[1].read_text().splitlines()
    tables[1].write_text("\n".join([head, *(f"{int('p5,' in row)}{row[row.index(',') :]}" for row in rows)]))
    mass, hernia, mean, _, explanation = run(*arguments)[1].splitlines()[2:]
    assert [line.endswith(" *") for line in (mass, hernia, mean)] == [False, True, True]
    assert explanation.startswith("* may be too narrow")


def test_evaluate_reads_the_table_of_the_nih_release(run, tables, tmp_path):
    lines = ["Image Index,Finding Labels,Patient ID"]
    for i, (mass, hernia) in enumerate(np.nan_to_num(tables[3])):
        found = [name for name, present in (("Mass", mass), ("Hernia", hernia)) if present]
        lines.append(f"{i}.png,{'|'.join(found) or 'No Finding'},{i // 3}")
    (tmp_path / "nih.csv").write_text("\n".join([*lines, "99.png,No Finding,50"]))
    code, out, err = run("evaluate", tables[0], tmp_path / "nih.csv", "--patients=Patient ID", "--format=csv")
    assert code == 0
    assert err == f"warning: 1 of 61 images of {tmp_path / 'nih.csv'} have no scores and are left out: 99.png\n"
    assert float(_rows(out)["all images", "Mass"]["auroc"]) == auroc(tables[2][:, 0], tables[3][:, 0])[0]


@pytest.mark.parametrize("cell", ["Infiltrate", "mass", "Mass Hernia", ""])
def test_unknown_findings_of_the_release_are_refused(run, tables, tmp_path, cell):
    lines = [f"{i}.png,{cell if i == 7 else 'Mass | Hernia'}" for i in range(60)]
    (tmp_path / "nih.csv").write_text("\n".join(["Image Index,Finding Labels", *lines]))
    code, _, err = run("evaluate", tables[0], tmp_path / "nih.csv")
    assert (code, f"Finding Labels of 7.png: unknown label '{cell}'" in err) == (2, True)


def test_repeated_columns_are_refused_and_columns_of_groups_are_no_labels(run, tables):
    expected = run("evaluate", *tables[:2], "--group=view", "--format=csv")
    head, *rows = tables[0].read_text().splitlines()
    tables[0].write_text("\n".join([f"{head},view", *(f"{row},1" for row in rows)]))
    assert run("evaluate", *tables[:2], "--group=view", "--format=csv")[:2] == expected[:2]
    tables[0].write_text("\n".join([f"{head},Mass", *(f"{row},1" for row in rows)]))
    assert "several columns 'Mass'" in run("evaluate", *tables[:2])[2]


def test_columns_of_labels_hold_beside_the_findings_of_the_release(run, tables):
    head, *rows = tables[1].read_text().splitlines()
    tables[1].write_text("\n".join([f"{head},Finding Labels", *(f"{row},Mass" for row in rows)]))
    out = run("evaluate", *tables[:2], "--format=csv")[1]
    assert float(_rows(out)["all images", "Mass"]["auroc"]) == auroc(tables[2][:, 0], tables[3][:, 0])[0]


def test_evaluate_leaves_out_labels_that_are_not_in_the_table(run, tables):
    tables[1].write_text(tables[1].read_text().replace("Hernia", "Nodule", 1))
    code, out, err = run("evaluate", *tables[:2], "--patients=patient", "--format=csv")
    assert (code, err) == (
        0,
        f"warning: {tables[1]} has no column for Hernia: left out; columns without scores: Nodule, view\n",
    )
    assert [label for _, label in _rows(out)] == ["Mass", "mean of 1"]


def test_equal_names_are_told_apart_by_their_folders(run, tmp_path, monkeypatch):
    """Score paths are relative to the working directory, label paths to their table, in another order."""
    (tmp_path / "films" / "p0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "films" / "p0")
    names = [f"p{i}/s{i % 2}/IM{k}" for i in range(6) for k in range(2)]
    scores = [f"{os.path.relpath(tmp_path / 'films' / name)},{i}" for i, name in enumerate(names)]
    labels = [f"{name},{int(i > 7)}" for i, name in enumerate(names)]
    (tmp_path / "scores.csv").write_text("\n".join(["path,Mass", *scores]))
    (tmp_path / "films" / "labels.csv").write_text("\n".join(["path,Mass", *labels[::-1], "p9/s1/IM0,1"]))
    code, out, err = run("evaluate", tmp_path / "scores.csv", tmp_path / "films" / "labels.csv", "--format=csv")
    assert (code, _rows(out)["all images", "Mass"]["auroc"]) == (0, "1.0")
    assert "have no scores and are left out: p9/s1/IM0\n" in err


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (0, "path,", "file,", "no column of image names (path, image, Image Index) or is not comma-separated; its"),
        (0, "(?s)\n.*", "", "no rows"),
        (0, "here/7.png", "here/8.png", "scores.csv, line 10: another row for 'here/8.png'"),
        (0, "here/7.png", "here/x.png", "1 images of "),
        (0, r"(here/7\.png),[^,]*", r"\1,x", "scores.csv: Mass of 7.png: could not convert string to float: 'x'"),
        (0, r"(here/7\.png),[^,]*", r"\1,nan", "scores.csv: Mass of 7.png: scores must be finite, got nan"),
        (1, r"(here/7\.png),[^,]*", r"\1,2", "labels.csv: Mass of 7.png: labels must be 0, 1 or empty"),
        (1, r"(here/7\.png),[^,]*", r"\1,nan", "labels must be 0, 1 or empty (unknown), got nan"),
        (1, "Hernia,image,Mass", "a,image,b", "none of the labels Mass, Hernia; its columns: a, image"),
        (1, "p2,AP", ",AP", "labels.csv: 3 images have no 'patient': 6.png, 7.png, 8.png"),
        (1, "patient", "person", "no column 'patient'; their columns: Hernia, image, Mass, person"),
        (1, "view", "gr\udcf6\udcdfe", "save it as UTF-8"),  # latin-1 bytes
    ],
)
def test_tables_that_do_not_fit_are_refused(run, tables, table, old, new, message):
    changed, count = re.subn(old, new, tables[table].read_text())
    assert count
    tables[table].write_text(changed, errors="surrogateescape")
    code, out, err = run("evaluate", *tables[:2], "--patients=patient", "--group=view")
    assert (code, out) == (2, "")
    assert message in err
