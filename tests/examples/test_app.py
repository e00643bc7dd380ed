"""The app in a browser: upload a radiograph, read its findings, and see no external requests."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR

pytestmark = pytest.mark.integration
APP = Path(__file__).resolve().parents[2] / "examples" / "app.py"


@pytest.fixture
def address(tmp_path):
    """Address of an app in a separate process with its own temporary folder."""
    pytest.importorskip("gradio", reason="comes with causalcxr[app]")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "no_proxy": "127.0.0.1,localhost"}
    command = [sys.executable, "-u", APP, f"--port={port}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert any("Running on" in line for line in process.stdout), "the app ended"
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)  # like Ctrl-C
    assert list((tmp_path / "temporary").iterdir()) == []  # no image is left behind


@pytest.fixture
def page(address):
    """A page of headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_film_to_findings(page, address, tmp_path):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    film = tmp_path / "film.png"
    Image.fromarray(np.rint(SyntheticCXR(1, image_size=256)[0][0][0].numpy() * 255).astype(np.uint8)).save(film)
    (tmp_path / "text.png").write_text("no film")

    page.set_input_files("input[type=file]", tmp_path / "text.png")
    page.get_by_text("cannot read image 'text.png'").wait_for()
    page.reload()
    page.set_input_files("input[type=file]", film)
    page.get_by_role("cell", name="Pleural Thickening").wait_for()
    assert page.get_by_role("cell", name=re.compile("%$")).count() == 14
    picture = page.locator(".image-frame img")
    picture.wait_for()
    first = picture.get_attribute("src")

    page.get_by_label("attention: where the model looks").check()
    page.wait_for_function("before => document.querySelector('.image-frame img').src != before", arg=first)
    with page.expect_download() as download:
        page.get_by_text("Findings as JSON").click()
    findings = json.loads(Path(download.value.path()).read_text())
    assert findings["film"] == "film.png"
    assert findings["probabilities"].keys() == findings["thresholds"].keys()
    assert len(findings["probabilities"]) == 14

    Image.fromarray(np.zeros((300, 60), dtype=np.uint8)).save(tmp_path / "strip.png")
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    page.set_input_files("input[type=file]", tmp_path / "strip.png")
    page.get_by_text("This may not be a frontal chest film.").first.wait_for()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def test_a_model_without_calibration_has_no_thresholds(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="comes with causalcxr[app]")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the app creates its folder there on import
    import app

    causalcxr.save_pretrained(causalcxr.create_model("causal_test_resnet"), tmp_path / "plain")
    Image.fromarray(np.zeros((96, 96), dtype=np.uint8)).save(tmp_path / "film.png")
    for model, lines in ((tmp_path / "plain", 0), ("causal_efficientnet_lite0", 14)):
        *_, table, _, file = app.Viewer(str(model)).analyse(str(tmp_path / "film.png"))
        assert len(json.loads(Path(file).read_text())["thresholds"] or ()) == table.count("border-left") == lines
        assert lines or "bold" not in table
