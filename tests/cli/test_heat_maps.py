"""`causalcxr predict --heatmap`: which findings are drawn, and on which scale."""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import causalcxr
from causalcxr import panel
from causalcxr.data import NIH_LABELS, read_image
from causalcxr.explain import attention_maps, evidence_maps


@pytest.fixture
def drawn(monkeypatch):
    """Record the panels instead of drawing them."""
    found = []
    monkeypatch.setattr(panel, "save_panel", lambda path, image, findings, *texts: found.append(findings))
    return found


def test_heat_maps_are_laid_out_as_the_images(run, images, tmp_path, monkeypatch):
    """The same for one film or many, so that films with equal names never share a picture."""
    monkeypatch.chdir(images)
    whole = f"{images.relative_to(images.anchor)}/more/b.png.heatmap.png"
    cases = {"a.png": "a.png.heatmap.png", "more": "more/b.png.heatmap.png"}
    cases |= {images / "more": whole, f"../{images.name}/more/b.png": whole}
    for number, (film, picture) in enumerate(cases.items()):
        maps = tmp_path / str(number)
        assert run("predict", film, "--heatmap", maps)[::2] == (0, "")
        assert [path for path in maps.rglob("*") if path.is_file()] == [maps / picture]
    with Image.open(tmp_path / "0" / "a.png.heatmap.png") as picture:
        assert 4 * 600 < picture.width < 5 * 600  # the film and three findings, each 600 by 720
        assert 720 < picture.height < 1000


def test_every_finding_at_its_threshold_is_drawn_and_marked(run, images, calibrated, tmp_path, drawn):
    assert run("predict", images / "a.png", "--model", calibrated, "--heatmap", tmp_path)[0] == 0
    [findings] = drawn
    assert sorted(finding.label for finding in findings) == sorted(NIH_LABELS[::2])
    assert all(finding.positive for finding in findings)
    scores = [finding.score for finding in findings]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("option", "maps_of"), [([], evidence_maps), (["--attention"], attention_maps)])
def test_findings_are_chosen_by_name_with_their_maps(run, images, folder, tmp_path, drawn, option, maps_of):
    arguments = ["--heatmap", tmp_path, "--finding", "Hernia", "--finding", "Mass", *option]
    assert run("predict", images / "a.png", *arguments)[0] == 0
    [findings] = drawn
    assert [(finding.label, finding.positive) for finding in findings] == [("Hernia", False), ("Mass", False)]
    model = causalcxr.create_model(folder).eval()
    maps = maps_of(model, model.preprocess(images / "a.png"))[0]
    for finding in findings:
        torch.testing.assert_close(finding.heat_map, maps[NIH_LABELS.index(finding.label)])


def test_all_maps_have_one_scale_and_the_colours_of_the_bar():
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (1, 40, 30), generator=generator) / 255
    strong, weak = (top * torch.rand(40, 30, generator=generator) for top in (2.0, 0.5))
    findings = [panel.Finding("a", 0.9, True, strong), panel.Finding("b", 0.1, False, weak)]
    pictures, highest = panel.overlays(grey, findings)
    assert highest == strong.max()
    bar, columns = panel.colour_bar().astype(int), (255 * grey[0]).round().long()
    for picture, finding in zip(pictures, findings, strict=True):
        rows = (255 * finding.heat_map / highest).round().long()
        np.testing.assert_allclose(picture, bar[rows, columns], atol=2)  # values lie between rows
    [unchanged], _ = panel.overlays(grey, [panel.Finding("c", 0.1, False, -strong)])
    assert np.ptp(unchanged, axis=-1).max() == 0


def test_scores_survive_a_heat_map_that_cannot_be_written(run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(images)
    (tmp_path / "a.png.heatmap.png").mkdir()
    code, out, err = run("predict", "a.png", "--heatmap", tmp_path, "--format", "csv")
    assert (code, len(out.splitlines()), "a.png.heatmap.png" in err) == (1, 2, True)


def test_a_heat_map_appears_when_it_is_complete(tmp_path, monkeypatch):
    def killed(figure, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        panel.save_panel(tmp_path / "a.png", torch.rand(1, 8, 8), [], "", "", "")
    assert not (tmp_path / "a.png").exists()


def test_what_cannot_be_drawn_ends_before_the_work(run, images, tmp_path, monkeypatch):
    for arguments, message in [
        (["--heatmap", images / "a.png"], str(images / "a.png")),
        (["--heatmap", tmp_path, "--finding", "Massa"], "unknown finding Massa; the model has Atelectasis"),
        (["--finding", "Mass"], "need --heatmap DIR"),
        (["--attention"], "need --heatmap DIR"),
    ]:
        code, out, err = run("predict", images, *arguments)
        assert (code, out) == (2, "")
        assert message in err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = "error: heat maps need matplotlib: pip install matplotlib\n"
    assert run("predict", images, "--heatmap", tmp_path) == (2, "", said)


def test_warnings_of_other_threads_are_said_while_a_film_is_drawn(run, images, tmp_path, monkeypatch):
    """Warning filters are shared by all threads, including those that read the next films."""

    def reading(path):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(warnings.warn, "of the next film").result()
        return read_image(path)

    monkeypatch.setattr(panel, "read_image", reading)
    assert "warning: of the next film" in run("predict", images / "a.png", "--heatmap", tmp_path)[2]
