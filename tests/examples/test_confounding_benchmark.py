"""The confounding benchmark on generated radiographs: which runs there are, that each method trains, and the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import causalcxr
import confounding_benchmark
from causalcxr.bench import StratifiedImages
from causalcxr.outputs import CausalOutput
from confounding_benchmark import options
from confounding_branches import PooledConfounder, cluster, similarity
from confounding_data import confound, read
from confounding_methods import METHODS, GroupDRO
from confounding_report import markdown, overview, plot
from confounding_training import Cropped, Training, build, draw, selection_auroc, take_backbone, train

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


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name: str, radiographs: Any) -> None:
    torch.manual_seed(0)
    start = build(METHODS[name], Training(**TINY)).state_dict()
    parts = confound(radiographs, "letter", 0.8, 0.8, seed=0)
    model = train(METHODS[name], parts, Training(**TINY), seed=0)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    trained = model.state_dict()
    changed = [key for key in start if key in trained and not torch.equal(start[key], trained[key])]
    assert any(key.endswith("conv1.0.weight") for key in changed)


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
    removed.unlink()
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


def test_group_dro_raises_the_share_of_the_worst_group() -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[3.0], [3.0], [-3.0], [3.0]])  # wrong on the second alone: a negative with the marker

    objective = GroupDRO(Fixed(), step_size=1.0)
    targets, strata = torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.tensor([1, 1, 0, 0])
    first = objective(torch.zeros(4), targets, strata)["loss"]
    losses = torch.nn.functional.softplus(torch.tensor([-3.0, 3.0, -3.0, -3.0]))
    share = losses[[2, 1, 3, 0]].exp() / losses.exp().sum()  # groups: 2 y + c
    torch.testing.assert_close(objective.share, share)
    torch.testing.assert_close(first, (share * losses[[2, 1, 3, 0]]).sum())


def test_pooled_confounder_is_the_mean_of_the_map() -> None:
    model = build(METHODS["causal"], Training(**TINY))
    encoded = torch.randn(2, model.num_features, 3, 5)
    pooled = PooledConfounder(model.head.decoder)(encoded)
    torch.testing.assert_close(pooled.confounder, encoded.mean(dim=(2, 3))[:, None])
    torch.testing.assert_close(pooled.causal, model.head.decoder(encoded).causal)


def test_similarity_of_features_is_one_for_rotated_and_none_for_independent_ones() -> None:
    features, _ = torch.linalg.qr(torch.randn(40, 8, dtype=torch.float64) - 3)
    features = features - features.mean(dim=0)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    assert similarity(features, 2 * features @ rotation + 1) == pytest.approx(1)
    outside, _ = torch.linalg.qr(torch.cat([torch.ones(40, 1), features, torch.randn(40, 5)], dim=1).double())
    assert similarity(features, outside[:, 9:]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("method", "kept"), [("causal_keep_attended", 0.5), ("causal_borrow_attended", 0.9)])
def test_region_kept_is_where_the_causal_branch_looks_or_where_it_does_not(method: str, kept: float) -> None:
    torch.manual_seed(0)
    model = build(METHODS[method], Training(**TINY)).train()
    images, seen = torch.randn(4, 3, 64, 64), []
    objective = METHODS[method].objective(model, torch.zeros(4, dtype=torch.long))
    objective.borrow.probability = 1.0
    objective.objective.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    with torch.no_grad():
        attention = model.eval().forward_causal(images, need_attention=True).attention.mean(dim=1)
        model.train()
    objective(images, torch.tensor([[0.0], [1.0], [0.0], [1.0]]))["loss"].backward()
    assert model.training
    assert any(not torch.equal(before[name], buffer) for name, buffer in model.named_buffers() if name in before)
    same = (seen[0] == images).all(dim=1).float()
    assert same.mean() == pytest.approx(kept, abs=0.02)
    larger = torch.nn.functional.interpolate(attention[:, None], size=(64, 64), mode="bilinear")[:, 0]
    on_kept = (larger * same).sum() / same.sum()
    on_borrowed = (larger * (1 - same)).sum() / (1 - same).sum()
    assert (on_kept > on_borrowed) == (method == "causal_keep_attended")


def test_clusters_are_found_within_each_class() -> None:
    class Told(nn.Module):
        """Confounding features that show the finding strongly and the marker a little."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward_causal(images).logits

        def forward_causal(self, images: torch.Tensor, need_attention: bool = False) -> CausalOutput:
            z, features = images[:, :1, 0, 0], 10 * images[:, :1, 0, :1] + images[:, :1, 0, 1:2]
            return CausalOutput(z, z, z[:, None], features, features, None)

    targets, marker = torch.tensor([0.0, 0, 0, 1, 1, 1]), torch.tensor([0.0, 0, 1, 0, 1, 1])
    images = torch.stack([targets, marker], dim=1).view(6, 1, 1, 2)
    data = StratifiedImages(images, targets, marker.long())
    found = cluster(Told(), data, seed=0)
    for value in (0, 1):
        chosen, strata = found[targets == value], marker[targets == value].long()
        assert torch.equal(chosen, strata) or torch.equal(1 - chosen, strata)


def test_drawing_by_weights_undoes_the_association() -> None:
    targets, strata = torch.tensor([1.0, 0.0]).repeat_interleave(500)[:, None], torch.zeros(1000, dtype=torch.long)
    strata[:475] = strata[500:525] = 1
    drawn = draw(targets, strata, np.random.default_rng(0))
    assert len(drawn) == 1000
    for value in (0, 1):
        marked = strata[drawn][targets[drawn, 0] == value]
        assert marked.float().mean() == pytest.approx(0.5, abs=0.07)  # 3 standard errors


def test_epoch_is_chosen_by_weighted_images_where_the_confounder_is_known(radiographs: Any) -> None:
    data = confound(radiographs, "letter", 0.9, 0.9, seed=0).val
    known = {name for name, method in METHODS.items() if method.knows_confounder}
    assert known == {
        "backdoor_weights", "backdoor_sampling", "causal_weights", "stratified_bank", "group_dro", "last_layer",
    }  # fmt: skip
    marked = data.strata.float()

    class ReadsMarker(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return marked[: len(images), None] + 0 * images.mean()

    model = ReadsMarker()
    assert selection_auroc(model, data, adjusted=False) == pytest.approx(0.9, abs=0.05)
    assert selection_auroc(model, data, adjusted=True) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["plain", "causal"])
def test_training_starts_from_the_backbone_of_published_weights(method: str) -> None:
    name = "causal_efficientnet_lite0.nih10k"
    donor = causalcxr.create_model(name, pretrained=True)
    model = build(METHODS[method], Training(backbone_weights=name))
    backbone = model.backbone if method == "causal" else model
    for key, value in donor.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value)
    assert options(Training(backbone_weights=name))["backbone_weights"] == name
    with pytest.raises(ValueError, match=f"the backbone of {name} does not fit .*Net, which has no 'conv_stem.weight'"):
        take_backbone(timm.create_model("test_resnet"), name)


def test_cropped_model_does_not_see_the_border() -> None:
    model = Cropped(build(METHODS["plain"], Training(**TINY)).eval(), crop=0.5)
    images = torch.randn(1, 3, 64, 64)
    other = images.clone()
    other[..., :15, :] = 0
    torch.testing.assert_close(model(images), model(other))
