"""Training against a confounder: studies run and resume, and each method does what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import causalcxr
from causalcxr.losses import backdoor_weights
from confounding import benchmark
from confounding.data import confound, read
from confounding.methods import METHODS, GroupDRO
from confounding.training import Training, build, selection_auroc, train
from nih_release import film_names, write_release

STUDIES = Path(benchmark.__file__).parent / "studies"
TINY = {"model": "test_resnet", "causal_model": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 16}
STUDY = {
    "training": TINY,
    "experiments": [{"images": "synthetic:240", "confounder": "letter", "correlations": [0.8]}],
    "methods": ["plain", "borrow_boxes"],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def radiographs():
    return read("synthetic:240", None, 64)


def test_a_study_is_resumed_and_reported(tmp_path):
    study, runs, result = tmp_path / "study.json", tmp_path / "runs", tmp_path / "result.json"
    study.write_text(json.dumps(STUDY))
    command = [str(study), f"--output={runs}", f"--json={result}", f"--plot={tmp_path / 'plot.png'}"]
    benchmark.main(command)
    assert len(json.loads(result.read_text())["runs"]) == 3  # the reference and two methods
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    removed, other = next(runs.glob("*-plain-at0.8-*")), next(runs.glob("*-borrow_boxes-at0.8-*"))
    before = json.loads(removed.read_text())["result"]
    other.write_text(json.dumps(json.loads(other.read_text()) | {"commit": "another"}))
    removed.unlink()
    with pytest.warns(UserWarning, match="a run of commit another"):
        benchmark.main(command)
    assert json.loads(removed.read_text())["result"] == before  # retrained with the same result
    study.write_text(json.dumps(STUDY | {"training": TINY | {"epochs": 2}}))
    with pytest.raises(ValueError, match="was trained with other options"):
        benchmark.main(command)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_committed_studies_can_be_read(path):
    study = json.loads(path.read_text())
    methods = {run.method for run in benchmark.runs_of(study)}
    assert methods <= set(METHODS)
    Training(**study["training"])


def test_parts_share_no_patient_and_tests_differ_in_the_marker_alone(radiographs):
    parts = confound(radiographs, "tube", 0.9, 0.5, seed=3)
    patients = [set(part.patient) for part in (parts.train, parts.val, parts.tests["same"])]
    assert len(set.union(*patients)) == sum(len(each) for each in patients)
    assert parts.train.correlation == parts.val.correlation == 0.5
    assert [test.correlation for test in parts.tests.values()] == [0.9, 0.5, pytest.approx(0.1), None]


def test_images_of_the_nih_release_show_one_finding_or_any(tmp_path):
    """24 films of 12 patients, half of them white, with a Mass."""
    findings = [["Mass"] if i % 4 < 2 else [] for i in range(24)]
    pictures = [np.full((64, 64), 255 if found else 90, dtype=np.uint8) for found in findings]
    write_release(tmp_path, film_names(0, 12), 14, findings=findings, views=["PA", "AP"] * 12, pictures=pictures)
    for source in ("nih", "nih:Mass"):
        films = read(source, tmp_path, 32)
        assert torch.equal(films.images.flatten(1).amin(dim=1) == 255, films.targets.bool())
        assert films.ap.sum() == 12
        assert set(films.patient[films.part == "test"]) == set(range(7, 12))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name, radiographs):
    torch.manual_seed(0)
    start = build(METHODS[name], Training(**TINY)).state_dict()
    model = train(METHODS[name], confound(radiographs, "letter", 0.8, 0.8, seed=0), Training(**TINY), seed=0)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    changed = [key for key, value in model.state_dict().items() if key in start and not torch.equal(start[key], value)]
    assert any(key.endswith("conv1.0.weight") for key in changed)


def test_group_dro_raises_the_share_of_the_worst_group():
    logits = torch.tensor([[3.0], [3.0], [-3.0], [3.0]])  # wrong only on the second: a negative with the marker
    objective = GroupDRO(lambda _: logits, step_size=1.0)
    targets, strata = torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.tensor([1, 1, 0, 0])
    first = objective(torch.zeros(4), targets, strata)["loss"]
    losses = torch.nn.functional.softplus(torch.tensor([-3.0, 3.0, -3.0, -3.0]))
    share = losses[[2, 1, 3, 0]].exp() / losses.exp().sum()  # groups: 2 y + c
    torch.testing.assert_close(objective.share, share)
    torch.testing.assert_close(first, (share * losses[[2, 1, 3, 0]]).sum())


def given(method, radiographs):
    """Train one epoch. Return the data, and the targets, strata (if any) and weights that the objective got."""
    seen = []

    def note(_, batch, options):
        seen.append((*batch[1:], options["weight"]))

    def objective(model):
        built = method.objective(model)
        built.register_forward_pre_hook(note, with_kwargs=True)
        return built

    parts = confound(radiographs, "letter", 0.9, 0.9, seed=0)
    train(method._replace(objective=objective), parts, Training(**TINY | {"batch_size": 40}), seed=0)
    return parts.train, [torch.cat(column) for column in zip(*seen, strict=True)]


def test_objective_gets_what_its_method_says(radiographs):
    data, (targets, weight) = given(METHODS["plain"], radiographs)
    assert len(targets) == len(data) == 120
    assert targets.sum() == data.targets.sum()  # every image once
    assert (weight == 1).all()
    _, (_, weight) = given(METHODS["backdoor_weights"], radiographs)
    torch.testing.assert_close(weight.sort(dim=0)[0], backdoor_weights(data.targets, data.strata).sort(dim=0)[0])
    _, (y, c, weight) = given(METHODS["group_dro"]._replace(drawn=True), radiographs)
    assert (weight == 1).all()
    assert c[y[:, 0] == 0].float().mean() == pytest.approx(0.5, abs=0.2)  # only 0.1 of the negatives have a letter


def test_validation_images_are_weighted_where_the_confounder_is_known(radiographs):
    known = {"backdoor_weights", "backdoor_sampling", "causal_weights", "group_dro", "last_layer"}
    assert {name for name, method in METHODS.items() if method.knows_confounder} == known
    data = confound(radiographs, "letter", 0.9, 0.9, seed=0).val
    marked = data.strata.float()

    def reads_marker(images):
        return marked[: len(images), None] + 0 * images.mean()

    assert selection_auroc(reads_marker, data, adjusted=False) == pytest.approx(0.9, abs=0.05)
    assert selection_auroc(reads_marker, data, adjusted=True) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["plain", "causal"])
def test_training_starts_from_the_backbone_of_published_weights(method):
    name = "causal_efficientnet_lite0.nih11k"
    donor = causalcxr.create_model(name, pretrained=True)
    model = build(METHODS[method], Training(backbone_weights=name))
    backbone = model.backbone if method == "causal" else model
    for key, value in donor.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value)
