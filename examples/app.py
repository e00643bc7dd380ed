"""Try a model in the browser: drop a radiograph, see the probability of each finding and the evidence for it.

    pip install ".[app,dicom]"
    python examples/app.py
    python examples/app.py --model runs/causal --port 8000

The app runs on the CPU and uses the network only to download a model. Radiographs are kept in a temporary folder,
which is deleted when the app exits. Research software, not a medical device.
"""

import argparse
import atexit
import html
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # set both before importing gradio
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="causalcxr-")

try:
    import gradio as gr
except ImportError:
    raise SystemExit('the app needs gradio: pip install ".[app]" in a clone of the repository') from None
import numpy as np
import torch
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR, read_image
from causalcxr.data.image import resize_image
from causalcxr.explain import attention_maps, evidence_maps, overlay

FOLDER = os.environ["GRADIO_TEMP_DIR"]
TITLE = "# Chest X-ray findings and their evidence\nResearch software, not a medical device, not for clinical use."
SIDE = 1024  # longest side of the displayed image
MAPS = {"evidence": "what supports the finding", "attention": "where the model looks"}
BAR = """<tr style="font-weight: {weight}"><td>{name}</td><td style="width: 60%"><div style="position: relative;
background: #8883"><div style="width: {value:.1%}; height: 1em; background: {colour}"></div>{line}</div></td>
<td>{value:.1%}</td></tr>"""
LINE = '<div style="position: absolute; left: {:.1%}; top: -2px; bottom: -2px; border-left: 2px solid"></div>'


class Viewer:
    """Callbacks of the page for one model."""

    def __init__(self, name):
        self.name = name
        self.model = causalcxr.create_model(Path(name) if Path(name).is_dir() else name, pretrained=True).eval()
        if not isinstance(self.model, causalcxr.CausalCXR):
            raise SystemExit(f"{name} is not a causal model, so it has no maps to show")
        self.labels = self.model.label_names or [f"label {k}" for k in range(self.model.num_classes)]

    def analyse(self, path):
        """Score a radiograph and return the page's state, findings, table, note and JSON file."""
        if path is None:
            return None, gr.Dropdown(choices=[], value=None), "", "", None
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                images = self.model.preprocess(path)
            film = read_image(path)
            scale = min(1, SIDE / max(film.shape))
            film = resize_image(film, (max(1, round(film.shape[1] * scale)), max(1, round(film.shape[2] * scale))))
        except (OSError, ValueError, ImportError) as error:
            raise gr.Error(str(error).replace(str(Path(path).parent) + os.sep, ""), print_exception=False) from error
        with torch.inference_mode():
            logits = self.model(images)
        calibration = self.model.calibration
        values = (calibration.probabilities(logits) if calibration else logits.sigmoid())[0].tolist()
        thresholds = calibration.thresholds if calibration else None
        notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
        result = {"film": Path(path).name, "model": self.name}
        result["probabilities"] = dict(zip(self.labels, values, strict=True))
        result |= {"thresholds": thresholds and dict(zip(self.labels, thresholds, strict=True)), "warnings": notes}
        file = Path(tempfile.mkdtemp(dir=FOLDER), "findings.json")
        file.write_text(json.dumps(result, indent=1))
        maps = {"evidence": evidence_maps(self.model, images)[0], "attention": attention_maps(self.model, images)[0]}
        state = {"film": film, "maps": maps, "folder": file.parent}
        highest = self.labels[int(np.argmax(np.divide(values, thresholds or 1)))]
        note = "".join(f"**This may not be a frontal chest film.** {note}\n\n" for note in notes)
        return state, gr.Dropdown(choices=list(self.labels), value=highest), bars(result), note, str(file)

    def show(self, state, finding, kind, opacity):
        """Return the image with the map of a finding on top, and a file that shows both side by side."""
        if state is None or finding is None:
            return None, None
        maps = state["maps"][kind]  # one scale, so that findings can be compared
        picture = overlay(
            state["film"], maps[self.labels.index(finding)], alpha=opacity, vmax=max(float(maps.max()), 1e-6)
        )
        grey = np.rint(state["film"][0].numpy() * 255).astype(np.uint8)
        file = state["folder"] / f"{kind}.png"
        Image.fromarray(np.concatenate([np.stack([grey] * 3, axis=-1), picture], axis=1)).save(file)
        return picture, str(file)


def bars(result):
    """Return an HTML table of probabilities as bars, highest first, with a line at each threshold, if any."""
    rows, thresholds = [], result["thresholds"] or {}
    for name, value in sorted(result["probabilities"].items(), key=lambda item: -item[1]):
        line = LINE.format(thresholds[name]) if thresholds else ""
        colour, weight = ("#c2410c", "bold") if value >= thresholds.get(name, 2) else ("#64748b", "normal")
        name = html.escape(name.replace("_", " "))
        rows.append(BAR.format(name=name, value=value, line=line, colour=colour, weight=weight))
    about = "Lines mark the thresholds." if thresholds else "The model has no calibration, hence no thresholds."
    return f"<table style='width: 100%'>{''.join(rows)}</table>{about}"


def example_films():
    """Write synthetic radiographs as examples, since no real ones come with the package."""
    films = SyntheticCXR(3, image_size=512, seed=3)
    paths = [Path(FOLDER, f"generated-{i + 1}.png") for i in range(len(films))]
    for (film, _), path in zip(films, paths, strict=True):
        Image.fromarray(np.rint(film[0].numpy() * 255).astype(np.uint8)).save(path)
    return [[str(path)] for path in paths]


def build(name):
    viewer = Viewer(name)
    with gr.Blocks(title="causalcxr", delete_cache=(3600, 3600)) as page:
        gr.Markdown(TITLE)
        state = gr.State()
        with gr.Row():
            with gr.Column():
                film = gr.File(label="Film: PNG, JPEG, TIFF or DICOM", height=120)
                gr.Examples(example_films(), film, label="Examples: generated, not patients", cache_examples=False)
                note = gr.Markdown()
                table = gr.HTML()
                findings = gr.DownloadButton("Findings as JSON")
            with gr.Column():
                finding = gr.Dropdown(label="Finding", choices=[])
                kind = gr.Radio([(f"{key}: {text}", key) for key, text in MAPS.items()], value="evidence", label="Map")
                opacity = gr.Slider(0, 1, 0.6, label="Opacity of the map")
                picture = gr.Image(label="Film and map", format="png", buttons=["fullscreen"], interactive=False)
                panel = gr.DownloadButton("Film and map as PNG")
        shown = {"fn": viewer.show, "inputs": [state, finding, kind, opacity], "outputs": [picture, panel]}
        film.change(viewer.analyse, film, [state, finding, table, note, findings]).success(**shown)
        for choice in (finding.input, kind.input, opacity.release):
            choice(**shown)
    return page


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="causal_efficientnet_lite0", help="model name, folder or hf-hub:owner/repo")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args(argv)
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
    fonts = {"font": ["sans-serif"], "font_mono": ["monospace"]}  # other fonts would be downloaded
    theme = gr.themes.Default(**fonts)
    build(args.model).launch(server_port=args.port, max_file_size="100mb", theme=theme, footer_links=[])


if __name__ == "__main__":
    main()
