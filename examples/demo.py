"""Train a small causal classifier on generated radiographs, in about two minutes on two cores, and look at it.

    python examples/demo.py

Prints the AUROC of each finding with its interval, and writes into `demo_output`:

- `heatmaps.png`: radiographs with the evidence for a planted finding beside its outline;
- `classifiers.png`: validation AUROC of the three classifiers by epoch, as in Fig. 4 of arXiv 2305.12072.

The radiographs are drawings. The figures say that the code works, nothing about real images.
"""

import argparse
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import train_nih
from causalcxr.data import NIH_LABELS, SyntheticCXR
from causalcxr.explain import evidence_maps, overlay
from causalcxr.metrics import bootstrap_auroc
from figures import draw_training, plt
from scoring import load_checkpoint, prepare, score

SHOWN = ("Cardiomegaly", "Effusion", "Mass", "Pneumothorax")


def print_table(scores: np.ndarray, dataset: SyntheticCXR) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare label may be missing from a resample
        result = bootstrap_auroc(scores, dataset.targets, dataset.patient)
    print(f"\n{'finding':20} positives  AUROC (95 % interval)")
    for k, label in enumerate(NIH_LABELS):
        positives = int(dataset.targets[:, k].sum())
        print(f"{label:20} {positives:9}  {result.auroc[k]:.3f} ({result.low[k]:.3f}, {result.high[k]:.3f})")
    print(f"{'mean':20} {'':9}  {result.mean:.3f} ({result.mean_low:.3f}, {result.mean_high:.3f})")


def draw_heatmaps(model: nn.Module, dataset: SyntheticCXR, path: Path) -> None:
    """Draw some findings: the radiograph, the causal map of the label, and the outline of what was planted."""
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(3 * len(SHOWN), 6.4), layout="constrained")
    for column, label in zip(axes.T, SHOWN, strict=True):
        k = NIH_LABELS.index(label)
        i = int(dataset.targets[:, k].argmax())
        image, mask = dataset[i][0].numpy(), dataset.masks(i)[k].numpy()
        maps = evidence_maps(model, prepare(torch.from_numpy(image)[None], model))
        column[0].imshow(image[0], cmap="gray", vmin=0, vmax=1)
        column[0].set_title(label)
        column[1].imshow(overlay(image, maps[0, k]))
        for axis in column:
            axis.contour(mask, levels=[0.5], colors="tab:cyan", linewidths=0.8)
            axis.set_axis_off()
    figure.suptitle("Generated radiographs: planted finding (outline) and the evidence for its label")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--images", type=int, default=2000, help="training radiographs; default: 2000")
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    args = parser.parse_args(argv)
    shutil.rmtree(args.output / "run", ignore_errors=True)
    options = {
        "data": f"synthetic:{args.images}",
        "output": str(args.output / "run"),
        "model": "causal_test_resnet",
        "image_size": "96",
        "epochs": str(args.epochs),
        "batch_size": "32",
        "lr": "3e-3",
        "device": "cpu",
    }
    train_nih.main([f"--{name.replace('_', '-')}={value}" for name, value in options.items()])
    checkpoint = args.output / "run" / "best.pt"
    scored, (model, _, _) = score(checkpoint, "test", "cpu"), load_checkpoint(checkpoint, "cpu")
    print_table(scored.headline, scored.dataset)
    draw_heatmaps(model, scored.dataset, args.output / "heatmaps.png")
    draw_training(scored.saved["log"], args.output / "classifiers.png")
    print(f"\nwrote {args.output / 'heatmaps.png'} and {args.output / 'classifiers.png'}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
