"""`causalcxr predict --heatmap`."""

import sys

import torch
from PIL import Image

import causalcxr
from causalcxr.cli import scoring
from causalcxr.data import NIH_LABELS


def test_heat_maps_are_laid_out_as_the_images(run, images, tmp_path):
    code, _, err = run("predict", images / "a.png", images / "more", "--heatmap", tmp_path / "maps")
    assert (code, err) == (0, "")
    drawn = sorted(path.relative_to(tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.png"))
    assert [str(path) for path in drawn] == [f"{name}.heatmap.png" for name in ("a.png", "more/b.png")]
    with Image.open(tmp_path / "maps" / "a.png.heatmap.png") as panel:
        assert panel.width > 4 * 600  # four pictures, 600 by 720
        assert 720 < panel.height < 1000


def test_a_panel_shows_the_highest_scores_with_their_maps(images, folder, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(scoring, "save_panel", lambda *given: shown.append(given))
    model = causalcxr.create_model(folder).eval()
    [prediction] = scoring.score_images(model, list(NIH_LABELS), [images / "a.png"], tmp_path, [])
    [(path, image, findings, title, note)] = shown
    assert (path, title) == (tmp_path / "a.png.heatmap.png", "a.png")
    assert "not for clinical use" in note
    assert image.shape == (1, 120, 100)
    assert [finding.score for finding in findings] == sorted(prediction.scores.values(), reverse=True)[:3]
    maps = causalcxr.explain.evidence_maps(model, model.preprocess(images / "a.png"))[0]
    for finding in findings:
        assert prediction.scores[finding.label] == finding.score
        assert torch.equal(finding.heat_map, maps[NIH_LABELS.index(finding.label)])


def test_scores_survive_a_heat_map_that_cannot_be_written(run, images, tmp_path):
    (tmp_path / "a.png.heatmap.png").mkdir()
    code, out, err = run("predict", images / "a.png", "--heatmap", tmp_path, "--format", "csv")
    assert code == 1
    assert len(out.splitlines()) == 2
    assert "error: " in err
    assert "a.png.heatmap.png" in err


def test_heat_maps_without_matplotlib_name_the_extra(run, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("predict", images, "--heatmap", tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: heat maps need matplotlib: pip install matplotlib\n"


def test_a_folder_of_heat_maps_that_cannot_be_made_ends_before_the_work(run, images):
    code, out, err = run("predict", images, "--heatmap", images / "a.png")
    assert (code, out) == (2, "")
    assert str(images / "a.png") in err
