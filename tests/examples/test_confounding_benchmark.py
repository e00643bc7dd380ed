"""The confounding benchmark on generated radiographs: which runs there are, that each method trains, and the report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import confounding_benchmark
from confounding_data import confound, read
from confounding_report import markdown, overview, plot
from confounding_training import Training

STUDIES = Path(confounding_benchmark.__file__).parent / "studies" / "confounding"
TINY = {"model": "test_resnet", "causal_model": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 16}
STUDY = {
    "training": TINY,
    "experiments": [
        {"images": "synthetic:240", "confounder": "letter", "correlations": [0.8], "unconfounded": ["borrow_boxes"]}
    ],
    "methods": ["plain", "borrow_boxes"],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def radiographs() -> Any:
    return read("synthetic:240", "", 64)


def test_a_study_is_resumed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    command = [str(tmp_path / "study.json"), f"--output={tmp_path / 'runs'}", f"--json={tmp_path / 'result.json'}"]
    confounding_benchmark.main(command)
    first = capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 4  # the reference, two methods, and one of them unconfounded
    assert (tmp_path / "result.png").stat().st_size > 0
    assert len(json.loads((tmp_path / "result.json").read_text())["runs"]) == 4
    removed = next((tmp_path / "runs").glob("*-plain-at0.8-*"))
    before = json.loads(removed.read_text())["result"]
    other = next((tmp_path / "runs").glob("*-borrow_boxes-at0.8-*"))
    other.write_text(json.dumps(json.loads(other.read_text()) | {"commit": "another"}))
    removed.unlink()
    with pytest.warns(UserWarning, match="borrow_boxes-at0.8-seed0.json is a run of commit another, and this is "):
        confounding_benchmark.main(command)
    assert json.loads(removed.read_text())["result"] == before  # trained again, with the same outcome
    second = capsys.readouterr().out
    table = (tmp_path / "result.md").read_text()
    assert table in first
    assert table in second
    assert "plain, not confounded" in table
    assert (tmp_path / "result_overview.md").read_text().strip() in table

    (tmp_path / "study.json").write_text(json.dumps(STUDY | {"training": TINY | {"epochs": 2}}))
    with pytest.raises(ValueError, match=r"was trained otherwise: .*'epochs': 1.*; use another --output"):
        confounding_benchmark.main(command)


def run(method: str, trained_at: float, value: float, confounder: str = "tube", at: float = 0.95) -> dict[str, Any]:
    figures = {"auroc": {"value": value}, "worst_group": {"value": value}, "shift": 0.0, "ece": 0.1}
    tests = {"none": figures, "reversed": figures}
    given = {"images": "made", "confounder": confounder, "correlation": at, "seed": 0}
    result = {"tests": tests, "probe_causal": None, "probe_confounder": None}
    return given | {"method": method, "trained_at": trained_at, "result": result}


def test_a_study_of_real_images_finds_their_folder(made_release: Path, tmp_path: Path) -> None:
    study = STUDY | {"experiments": [{"images": "nih:Mass", "confounder": "letter", "correlations": [0.8]}]}
    (tmp_path / "study.json").write_text(
        json.dumps(study | {"methods": ["plain"], "training": TINY | {"batch_size": 4, "epochs": 2}})
    )
    confounding_benchmark.main([str(tmp_path / "study.json"), f"--output={tmp_path / 'runs'}", f"--nih={made_release}"])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "nihMass-letter-0.8-plain-at0.5-seed0.json",
        "nihMass-letter-0.8-plain-at0.8-seed0.json",
    ]


def test_gap_closed_is_the_part_of_the_way_to_the_reference() -> None:
    table = markdown([run("plain", 0.5, 0.98), run("plain", 0.95, 0.78), run("other", 0.95, 0.93)])
    rows = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in table.splitlines() if "|" in line}
    assert rows["plain"] == "0%"
    assert rows["other"] == "75%"
    assert rows["plain, not confounded"] == ""
    small = markdown([run("plain", 0.5, 0.98), run("plain", 0.95, 0.97), run("other", 0.95, 0.93)])
    assert "%" not in small  # parts of next to nothing


def test_map_on_the_marker_is_in_parts_of_a_flat_map() -> None:
    runs = [run("plain", 0.5, 0.98), run("plain", 0.95, 0.78)]
    runs[1]["result"]["tests"]["none"] |= {"attention_share": 0.06, "area_share": 0.02}
    cells = [line.split("|")[-2].strip() for line in markdown(runs).splitlines() if "|" in line]
    assert cells[0] == "map on marker / area"
    assert cells[2:] == ["", "3.0"]


def test_overview_has_the_reversed_tests_of_all_experiments() -> None:
    tube = [run("plain", 0.5, 0.98), run("plain", 0.95, 0.78), run("other", 0.95, 0.93), run("other", 0.5, 0.97)]
    letter = [run("plain", 0.5, 0.99, "letter", 0.9), run("plain", 0.9, 0.88, "letter", 0.9)]
    assert overview(tube + letter).splitlines() == [
        "| method | tube 0.95 | letter 0.9 |",
        "| --- | --- | --- |",
        "| plain, not confounded | 0.980 | 0.990 |",
        "| plain | 0.780 | 0.880 |",
        "| other | 0.930 |  |",
    ]


def test_plot_shows_methods_with_several_correlations_and_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[str, list[float], list[float]]] = []
    monkeypatch.setattr(Axes, "plot", lambda axis, x, y, **style: drawn.append((style["label"], x, y)) or [])
    runs = [run("plain", trained, at, at=at) for at in (0.8, 0.9) for trained in (0.5, at)] + [
        run("other", 0.9, 0.7, at=0.9)
    ]
    plot(runs, tmp_path / "plot.png")
    assert drawn == [("plain", [0.8, 0.9], [0.8, 0.9]), ("plain, not confounded", [0.8, 0.9], [0.8, 0.9])]


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_committed_studies_can_be_read(path: Path) -> None:
    study = json.loads(path.read_text())
    assert len(list(confounding_benchmark.runs_of(study))) > 1
    Training(**study["training"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["plain", "magic"]}, r"unknown methods \['magic'\]; there are \['plain'"),
        ({"experiments": [{"methods": ["magic"]}]}, r"unknown methods \['magic'\]"),
        ({"experiments": [{"unconfounded": ["magic"]}]}, r"unknown methods \['magic'\]"),
        ({"epochs": 3}, "a study has .*'seeds', 'training'.*, but got .*'epochs'"),
    ],
)
def test_studies_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(confounding_benchmark.runs_of(STUDY | change))


def test_images_and_confounders_that_do_not_exist_are_refused(radiographs: Any) -> None:
    with pytest.raises(
        ValueError, match=r"images must be 'pneumonia', 'nih', .* or 'synthetic:NUMBER', got 'chexpert'"
    ):
        read("chexpert", "", 64)
    with pytest.raises(ValueError, match="pneumonia is always against normal, got 'pneumonia:viral'"):
        read("pneumonia:viral", "", 64)
    with pytest.raises(ValueError, match=r"confounder must be one of .*'tube'.*'view'.*, got 'pen'"):
        confound(radiographs, "pen", 0.9, 0.9, 0)
    with pytest.raises(ValueError, match="the view of these images is not known; use those of nih"):
        confound(radiographs._replace(ap=None), "view", 0.9, 0.9, 0)


def test_nih_images_show_any_finding_or_one(made_release: Path) -> None:
    every, mass = (read(source, str(made_release), 32) for source in ("nih", "nih:Mass"))
    brightest = every.images.flatten(1).float().mean(dim=1)
    for radiographs, val_patients in ((every, 2), (mass, 4)):  # of 14
        assert radiographs.images.shape == (48, 1, 32, 32)
        assert len(set(radiographs.patient[radiographs.part == "val"])) == val_patients
        assert set(radiographs.patient[radiographs.part == "test"]) == set(range(14, 24))
    assert mass.targets.sum() == 24
    mass_of = dict(zip(mass.patient, mass.targets, strict=True))
    shows_mass = torch.tensor([bool(mass_of[patient]) for patient in every.patient])
    assert brightest[shows_mass].min() > brightest[~shows_mass].max()  # a white box
    assert every.targets[shows_mass].all()
    with pytest.raises(ValueError, match="unknown label 'Tube'; valid labels: Atelectasis"):
        read("nih:Tube", str(made_release), 32)


def test_parts_share_no_patient_and_tests_differ_in_the_marker_alone(radiographs: Any) -> None:
    parts = confound(radiographs, "tube", 0.9, 0.5, seed=3)
    patients = [set(part.patient) for part in (parts.train, parts.val, parts.tests["same"])]
    assert len(set.union(*patients)) == sum(len(each) for each in patients)
    assert parts.train.correlation == parts.val.correlation == 0.5
    assert [test.correlation for test in parts.tests.values()] == [0.9, 0.5, pytest.approx(0.1), None]
