"""Draw a film next to the evidence for some findings: docs/images/evidence.png.

    python examples/research/evidence_picture.py path/to/nih 00001369_000.png Cardiomegaly Atelectasis

The box of the first finding is drawn if the release has one. All maps share one scale.
"""

import argparse
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

import causalcxr
from causalcxr.data import NIHChestXray14, read_image
from causalcxr.explain import evidence_maps

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "evidence.png"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder in the layout of the NIH release, with 1024 px images")
    parser.add_argument("film", help="file name of the image")
    parser.add_argument("findings", nargs="+")
    parser.add_argument("--model", default="causal_efficientnet_lite0")
    parser.add_argument("--output", type=Path, default=PICTURE)
    args = parser.parse_args(argv)
    model = causalcxr.create_model(args.model, pretrained=True).eval()
    path = next(args.release.glob(f"images*/**/{args.film}"))
    film, images = read_image(path)[0].numpy(), model.preprocess(path)
    labels = [model.label_names.index(finding) for finding in args.findings]
    with torch.inference_mode():
        probabilities = model.calibration.probabilities(model(images))[0, labels].tolist()
    maps = evidence_maps(model, images, labels)[0].numpy()
    highest = abs(maps).max()
    boxes = NIHChestXray14(args.release, "test", bad_images="skip").boxes.get(args.film, [])
    figure, axes = plt.subplots(1, 1 + len(labels), figsize=(3.4 * (1 + len(labels)) + 0.8, 3.8), layout="constrained")
    extent = (0, film.shape[1], film.shape[0], 0)
    for axis in axes:
        axis.imshow(film, cmap="gray", vmin=0, vmax=1, extent=extent)
        axis.set_axis_off()
    for axis in axes[:2]:
        for box in (box for box in boxes if box.label == args.findings[0]):
            axis.add_patch(Rectangle((box.x, box.y), box.w, box.h, fill=False, edgecolor="gold", linewidth=1.5))
    for axis, finding, value, heat in zip(axes[1:], args.findings, probabilities, maps, strict=True):
        opacity = 0.8 * (abs(heat) / highest) ** 0.5
        shown = axis.imshow(heat, cmap="coolwarm", vmin=-highest, vmax=highest, alpha=opacity, extent=extent)
        axis.set_title(f"{finding.replace('_', ' ')}: {value:.2f}", fontsize=14)
    axes[0].set_title("film", fontsize=14)
    bar = figure.colorbar(plt.cm.ScalarMappable(shown.norm, shown.cmap), ax=axes, shrink=0.8)
    bar.set_ticks([-highest, 0, highest], labels=["against", "none", "for"], fontsize=12)
    figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
