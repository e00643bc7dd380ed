"""Train a small causal classifier on synthetic radiographs in a few minutes on two cores, and inspect it.

    python examples/demo.py

Prints the AUROC of each finding on held-out radiographs, with a 95 % interval. Saves the trained model to
`demo_output/model` and a figure to `demo_output/heatmaps.png`, which shows radiographs with a planted finding and the
evidence that the model finds for it. Running it again starts over.

The radiographs are drawings. The results show that the code works, and nothing about real radiographs.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch.utils.data import DataLoader

import causalcxr
from causalcxr.data import SyntheticCXR, normalise
from causalcxr.explain import evidence_maps
from causalcxr.metrics import bootstrap_auroc

SIZE = 96
SHOWN = ("Cardiomegaly", "Effusion", "Mass", "Pneumothorax")


def train(folder, images, epochs):
    options = {"data": f"synthetic:{images}", "output": folder, "model": "causal_test_resnet", "image-size": SIZE}
    options |= {"epochs": epochs, "batch-size": 32, "lr": 3e-3}
    command = [sys.executable, Path(__file__).with_name("train.py"), "--no-augment"]  # synthetic images vary enough
    subprocess.run([*command, *(f"--{name}={value}" for name, value in options.items())], check=True)


def print_table(model, films):
    with torch.inference_mode():
        logits = torch.cat([model(normalise(images, model.pretrained_cfg)) for images, _ in DataLoader(films, 50)])
    result = bootstrap_auroc(logits, films.targets, films.patient, n_resamples=1000)
    print(f"\n{'finding':20} positives  AUROC (95 % interval)")
    for label, positives, value, low, high in zip(films.label_names, result.positives, *result.per_label, strict=True):
        print(f"{label:20} {positives:9}  {value:.3f} ({low:.3f}, {high:.3f})")
    value, low, high = result.mean
    print(f"{'mean':20} {'':9}  {value:.3f} ({low:.3f}, {high:.3f})")


def draw_heatmaps(model, films, path):
    """Plot some findings: the radiograph above, the evidence below, both with the finding outlined."""
    labels = [films.label_names.index(name) for name in SHOWN]
    rows = [int(films.targets[:, k].argmax()) for k in labels]  # the first image of each
    images = torch.stack([films[i][0] for i in rows])
    evidence = evidence_maps(model, normalise(images, model.pretrained_cfg), labels=labels)
    maps = torch.stack([evidence[column, column] for column in range(len(labels))]).numpy()
    maps /= np.abs(maps).max(axis=(1, 2), keepdims=True)
    figure, axes = plt.subplots(2, len(labels), figsize=(3 * len(labels) + 1, 6.5), layout="constrained")
    for column, (i, k) in enumerate(zip(rows, labels, strict=True)):
        for axis in axes[:, column]:
            axis.imshow(images[column, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.contour(films.sample(i).masks[k].numpy(), levels=[0.5], colors="gold", linewidths=1)
            axis.set_axis_off()
        opacity = 0.8 * np.sqrt(np.abs(maps[column]))
        drawn = axes[1, column].imshow(maps[column], cmap="coolwarm", vmin=-1, vmax=1, alpha=opacity)
        axes[0, column].set_title(SHOWN[column], fontsize=14)
    bar = figure.colorbar(plt.cm.ScalarMappable(drawn.norm, drawn.cmap), ax=axes[1])
    bar.set_ticks([-1, 0, 1], labels=["against", "none", "for"], fontsize=12)
    bar.set_label("evidence, each map to its own scale", fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--images", type=int, default=2000, help="number of training images; default: 2000")
    parser.add_argument("--epochs", type=int, default=8, help="number of epochs; default: 8")
    args = parser.parse_args(argv)
    shutil.rmtree(args.output / "model", ignore_errors=True)
    train(args.output / "model", args.images, args.epochs)
    model = causalcxr.create_model(args.output / "model").eval()
    films = SyntheticCXR(500, image_size=SIZE, seed=2)  # training and validation use seeds 0 and 1
    print_table(model, films)
    draw_heatmaps(model, films, args.output / "heatmaps.png")
    print(f"\nwrote {args.output / 'heatmaps.png'}")


if __name__ == "__main__":
    main()
