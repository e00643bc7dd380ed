"""The NIH study: reading, augmentation, figures, and a run from films to a model folder."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import brier_score_loss
from torch.testing import assert_close

import causalcxr
from causalcxr.data import NIHChestXray14, normalise
from causalcxr.data.image import resize_image
from causalcxr.data.nih_tables import read_nih_tables
from causalcxr.metrics import auroc, expected_calibration_error
from nih import films, pointing, report, ship, storage, study, training, views
from nih.variants import VARIANTS
from nih_release import make_release

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release"), first=1, patients=60, test=20, side=64)


def test_films_are_read_in_the_order_of_the_tables(release, tmp_path):
    names = read_nih_tables(release).names
    whole = np.stack([np.asarray(Image.open(release / "images" / name)) for name in names])
    assert np.array_equal(films.read_pixels(release), whole)
    for path in release.iterdir():  # in parts, as it is published
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "images_001").mkdir()
    (tmp_path / "images").rename(tmp_path / "images_001" / "images")
    assert np.array_equal(films.read_pixels(tmp_path), whole)


def test_parts_are_those_of_the_data_set(release):
    tables = read_nih_tables(release)
    for part, rows in films.parts(tables).items():
        dataset = NIHChestXray14(release, part, val_fraction=0.2, seed=0)
        assert [tables.names[row] for row in rows] == dataset.names
        assert np.array_equal(tables.targets[rows], dataset.targets.numpy())


def test_films_are_resized_as_the_library_does():
    pixels = torch.randint(256, (2, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size in (48, 64, 96):
        expected = torch.stack([resize_image(film[None] / 255, size) for film in pixels])
        assert_close(films.resize(pixels, size), expected, atol=1e-5, rtol=0)


def test_weights_keep_the_frequencies_of_the_first_source_and_part_label_and_view():
    generator = torch.Generator().manual_seed(0)
    view, source = (torch.rand(4000, generator=generator) < 0.4).long(), torch.arange(4000) // 3000
    chance = 0.1 + 0.2 * view + 0.3 * source
    targets = (torch.rand(4000, 14, generator=generator) < chance[:, None]).float()
    weight = films.prevalence_weights(targets, 3000)
    adjusted = films.Training([torch.empty(4000, 0)], targets, weight, view).adjusted_for_view()
    for given, tolerance in ((weight, 1e-5), (adjusted, 0.002)):
        frequency = (given * targets).sum(dim=0) / given.sum(dim=0)
        assert_close(frequency, targets[:3000].mean(dim=0), atol=tolerance, rtol=0)
        assert_close(given.mean(dim=0), torch.ones(14), atol=tolerance, rtol=0)
    shares = [(adjusted * targets)[view == v].sum(dim=0) / adjusted[view == v].sum(dim=0) for v in (0, 1)]
    assert_close(*shares, atol=0.002, rtol=0)


def test_mean_probabilities_of_teachers():
    images = torch.rand(2, 1, 64, 64)
    models = [timm.create_model("test_resnet", num_classes=3).eval() for _ in range(2)]
    expected = sum(model(normalise(images, model.pretrained_cfg)).sigmoid() for model in models) / 2
    assert_close(training.mean_probabilities(models, images), expected)


STILL = {"rotate": 0, "scale": 0, "shift": 0, "contrast": 0, "enlarge": False, "smallest": 96, "noise": 0}


def test_a_view_without_change_is_the_film_as_in_evaluation_or_mirrored():
    for mirror in (0, 1):
        still = views.Views(**STILL, mirror=mirror)
        pixels = torch.randint(256, (8, 96, 96), dtype=torch.uint8)
        shown = pixels.flip(-1) if mirror else pixels
        for size in (48, 96):
            assert_close(still(pixels, size, np.random.default_rng(0)), films.resize(shown, size), atol=1e-5, rtol=0)


def test_enlarged_films_are_less_sharp():
    pixels = torch.randint(256, (8, 64, 64), dtype=torch.uint8)
    blurred = views.Views(**(STILL | {"enlarge": True}), mirror=0)(pixels, 64, np.random.default_rng(0))
    assert blurred.std() < 0.9 * (pixels / 255).std()


def test_films_are_picked_from_their_source():
    parts = torch.arange(8, dtype=torch.uint8)[:, None, None].split([5, 3])
    training = films.Training([*parts], *torch.zeros(3, 8, 14))
    for rows in ([0, 4, 5, 7], [1, 2], [6]):
        picked = torch.cat(training.of(torch.tensor(rows)))
        assert picked.flatten().tolist() == rows


def test_a_compressed_view_differs_from_the_film_as_a_stored_one_does():
    pixels = torch.randint(100, 120, (8, 96, 96), dtype=torch.uint8)
    stored = views.Views(**STILL, mirror=0, compressed=1.0)(pixels, 96, np.random.default_rng(0))
    off = 255 * (stored[:, 0] - pixels / 255).abs()
    assert 0.2 < off.mean() < 8
    assert off.flatten(1).mean(1).min() > 0.1


@pytest.mark.parametrize("name", ["causal_test_resnet", "test_resnet"])
def test_evidence_adds_up_to_the_change_of_the_logit_along_the_map(name):
    """The sum is the derivative of z_k with respect to a factor of the map, at 1."""
    torch.manual_seed(0)
    causal = name.startswith("causal")
    model = (causalcxr.create_model(name) if causal else timm.create_model(name, num_classes=14)).eval().double()
    images, labels = torch.randn(2, 3, 64, 64).double(), torch.tensor([3, 5])
    found = pointing.evidence(model, images, labels)
    factor = torch.ones((), dtype=torch.double, requires_grad=True)
    place = model.head.feature_learning if causal else model.layer4
    handle = place.register_forward_hook(lambda _module, _given, encoded: encoded * factor)
    model(images).gather(1, labels[:, None]).sum().backward()
    handle.remove()
    assert_close(found.sum(), factor.grad)


def test_ranking_is_measured_as_in_the_library(release):
    """Means within a view are of the labels that both views have."""
    tables = read_nih_tables(release)
    targets, pa = tables.targets.copy(), tables.view == "PA"
    targets[pa, 0] = 0
    tables = dataclasses.replace(tables, targets=targets)
    assert report.judged_in_both_views(tables).tolist() == [False] + 13 * [True]
    scores = np.random.default_rng(0).normal(size=targets.shape) + targets
    figures = report.ranking_figures(scores, tables, 20)
    assert figures["mean_of_14"][0] == pytest.approx(auroc(scores, targets).mean())
    assert figures["mean_of_both_views"][0] == pytest.approx(auroc(scores, targets)[1:].mean())
    for view, rows in {"AP": ~pa, "PA": pa}.items():
        assert figures[f"within_{view}"][0] == pytest.approx(auroc(scores[rows, 1:], targets[rows, 1:]).mean())
    assert figures["worst_view"][0] == min(figures[f"within_{view}"][0] for view in ("AP", "PA"))


def test_calibration_and_pointing_are_measured_as_in_the_library(release):
    tables = read_nih_tables(release)
    scores = np.random.default_rng(0).normal(size=tables.targets.shape) + tables.targets
    drawn, probabilities = report.drawn(tables.patient, 5), 1 / (1 + np.exp(-scores))
    error = report.calibration_figure(scores, tables.targets, drawn)
    assert error[0] == pytest.approx(expected_calibration_error(probabilities, tables.targets).mean())
    brier = report.brier_figure(scores, tables.targets, drawn)
    copies = np.repeat(np.arange(len(scores)), drawn[1].astype(int))
    for found, rows in zip(brier, (slice(None), copies), strict=False):
        labels = zip(tables.targets[rows].T, probabilities[rows].T, strict=True)
        assert found == pytest.approx(np.mean([brier_score_loss(*of_label) for of_label in labels]))
    n_marked = len(pointing.marked_findings(tables))
    assert report.pointing_figure([[0.125, 0.125]] * n_marked, tables, 5).tolist() == [1] * 6
    assert report.pointing_figure([[0.5, 0.5]] * n_marked, tables, 5).tolist() == [0] * 6


def test_better_takes_an_interval_and_every_seed():
    spread = np.linspace(-0.01, 0.01, 101)

    def seeds(*values):
        return {seed: np.append(value, value + spread) for seed, value in enumerate(values)}

    zero = {seed: np.full(102, 0.5) for seed in range(3)}
    assert report.difference(seeds(0.52, 0.53, 0.55), zero)["verdict"] == "better"
    assert report.difference(seeds(0.48, 0.47, 0.45), zero)["verdict"] == "worse"
    assert report.difference(seeds(0.52, 0.53, 0.55), zero, lower_is_better=True)["verdict"] == "worse"
    assert report.difference(seeds(0.499, 0.56, 0.55), zero)["verdict"] == "not told apart"  # one seed disagrees
    assert report.difference(seeds(0.505, 0.501, 0.502), zero)["verdict"] == "not told apart"
    assert report.difference(seeds(0.6), zero)["verdict"] == "not told apart"  # a single seed


def test_runs_of_two_recipes_are_not_mixed():
    run = {"name": "plain-seed0", "variant": "plain", "seed": 0, "finished": True, "setting": {"lr": 1.0}}
    folders, about = [Path("a"), Path("b")], [{"sources": ["films"]}, {"sources": ["films"]}]
    report.check_one_recipe(folders, about, [[run], [run | {"seed": 1}]])
    with pytest.raises(SystemExit, match=r"^b/plain-seed0 has lr 2.0, unlike a/plain-seed0"):
        report.check_one_recipe(folders, about, [[run], [run | {"seed": 1, "setting": {"lr": 2.0}}]])
    with pytest.raises(SystemExit, match=r"^b/plain-seed0 has sources \['others'\]"):
        report.check_one_recipe(folders, [about[0], {"sources": ["others"]}], [[run], [run | {"seed": 1}]])
    with pytest.raises(SystemExit, match="more than one run of plain, seed 0"):
        report.check_one_recipe(folders, about, [[run], [run]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # about rare labels in a handful of films
def test_from_films_to_a_model_folder(release, tmp_path):
    """Run a small search and a small study of all variants, as in the README."""
    extra = make_release(tmp_path / "extra", first=500, patients=10, test=0, side=96)
    common = ["--small", "--device", "cpu", "--data", str(release), "--extra", str(extra)]
    configs = {
        mode: json.loads((Path(study.__file__).parent / f"{mode}.json").read_text()) | {"seeds": [0]}
        for mode in ("search", "study")
    }
    settings = configs["search"]["settings"]
    configs["search"]["settings"] = {name: settings[name] for name in ("mild", "mirror", "layer_decay")}
    found, output = tmp_path / "search", tmp_path / "study"

    def run(mode, folder, *arguments):
        config = tmp_path / f"{mode}.json"
        config.write_text(json.dumps(configs[mode]))
        command = [sys.executable, "-m", "nih.study", config, *common, "--output", folder]
        subprocess.run([*command, *arguments], cwd=ROOT / "examples" / "research", check=True, timeout=300)

    run("search", found)
    run("study", output)
    results = json.loads((output / "results.json").read_text())
    runs = {record["variant"]: record for record in results["runs"]}
    assert set(runs) == {name for name in VARIANTS if "small" not in name}
    assert all(record["finished"] for record in runs.values())
    for variant in ("causal", "as_printed"):
        assert runs[variant]["branches_start"]["norm_confounder"] > 0
        assert len(runs[variant]["pointing"]["attention"]) == len(runs["plain"]["pointing"]["evidence"]) > 0
    run("study", output)  # nothing to do
    assert json.loads((output / "results.json").read_text())["runs"] == results["runs"]

    configs["search"] |= {"groups": [["causal"]], "settings": {"": {}}}
    again, start = tmp_path / "again", output / "runs" / "causal-seed0.safetensors"
    run("search", again, "--start", start)
    of_again = json.loads((again / "results.json").read_text())
    assert of_again["start"] == hashlib.sha256(start.read_bytes()).hexdigest()
    assert of_again["runs"][0]["branches_start"] != runs["causal"]["branches_start"]

    taught = tmp_path / "taught"
    run("search", taught, "--start", start, "--teachers", start, output / "runs" / "plain-seed0.safetensors")
    of_taught = json.loads((taught / "results.json").read_text())
    assert of_taught["teachers"][0] == of_taught["start"] != of_taught["teachers"][1]
    assert of_taught["runs"][0]["curve"][0]["loss"] != of_again["runs"][0]["curve"][0]["loss"]

    config = str(tmp_path / "study.json")
    others = study.jobs_of(study.parse([config, *common, "--seeds", "1", "2", "--output", "elsewhere"]))
    assert {job["seed"] for job in others} == {1, 2}

    for folder in (found, output):
        report.main([str(folder), "--data", str(release), "--output", str(tmp_path / "docs"), "--resamples", "20"])
    table = json.loads((tmp_path / "docs" / "study.json").read_text())
    assert set(table["variants"]) == set(runs)
    for variant, of in table["variants"].items():
        to_middle = table["differences"][f"{variant} - middle of the image"]["pointing_evidence"]
        assert to_middle["mean"] == of["figures"]["pointing_evidence"]["mean"]  # the middle lies in no box
    assert table["variants"]["causal"]["figures"]["calibration_error"]["interval"] is None
    assert "| causal |" in (tmp_path / "docs" / "study.md").read_text()
    assert "| mirror |" in (tmp_path / "docs" / "search.md").read_text()

    storage.main([str(output), "--data", str(release), "--output", str(tmp_path / "storage.json")])
    of_storage = json.loads((tmp_path / "storage.json").read_text())["runs"]
    assert set(of_storage) == {"causal-seed0", "label_queries-seed0", "label_queries_view-seed0"}
    assert all(row["change"] > 0 and row["auroc"] != row["jpeg_auroc"] for row in of_storage.values())

    ship.main([str(taught), "--data", str(release), "--output", str(tmp_path / "shipped"), "--about", "Noise."])
    model = causalcxr.create_model(tmp_path / "shipped").eval()
    assert model.calibration is not None
    manifest = json.loads((tmp_path / "shipped" / "manifest.json").read_text())
    assert [manifest[key] for key in ("start", "teachers")] == [of_taught[key] for key in ("start", "teachers")]
    with np.load(taught / "scores.npz") as scores:
        logits = torch.from_numpy(scores["causal-seed0/val"]).float()
    row = films.parts(read_nih_tables(release))["val"][0]
    film = films.read_pixels(release)[row]
    with torch.no_grad():
        again_logits = model(model.preprocess(torch.from_numpy(film)[None] / 255))
    assert_close(again_logits[0], logits[0], atol=5e-3, rtol=0)
