"""Use a torchxrayvision dataset with a causal model: convert its pixel range and label order.

    python examples/integrations/torchxrayvision_data.py

torchxrayvision has pixels in [-1024, 1024] and labels sorted by name. causalcxr has pixels in [0, 1] before normalising
and labels in the order of the NIH release. Label names are the same. Unknown labels are NaN, which the losses ignore.
"""

import csv
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import causalcxr
from causalcxr.data import NIH_LABELS, SyntheticCXR, preprocess

with warnings.catch_warnings():  # importing it silences all warnings of the program
    import torchxrayvision as xrv


class FromXRayVision(Dataset[tuple[Tensor, Tensor]]):
    """Normalised images (C, H, W) for a model with this `pretrained_cfg`, and targets (K,), NaN where unknown."""

    def __init__(self, source: Any, cfg: Mapping[str, Any], labels: Sequence[str] = NIH_LABELS) -> None:
        self.source, self.cfg, self.labels = source, cfg, labels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.source[index]
        image = torch.from_numpy(sample["img"]) / 2048 + 0.5
        known = dict(zip(self.source.pathologies, sample["lab"], strict=True))
        target = torch.tensor([known.get(label, torch.nan) for label in self.labels], dtype=torch.float32)
        return preprocess(image, self.cfg)[0], target


def write_release(folder: Path, films: SyntheticCXR) -> Path:
    """Write images as PNG files with a table in the format of the NIH release; return the table's path."""
    columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    with open(folder / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for i, (image, target) in enumerate(films):
            Image.fromarray((255 * image[0]).round().byte().numpy()).save(folder / f"{i:08}.png")
            findings = [name for name, present in zip(films.label_names, target, strict=True) if present]
            about = [films.patient[i], films.age[i], films.sex[i], films.view[i]]
            table.writerow([f"{i:08}.png", "|".join(findings) or "No Finding", *about])
    return folder / "table.csv"


def main() -> None:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", label_names=NIH_LABELS)
    with tempfile.TemporaryDirectory() as folder:
        table = write_release(Path(folder), SyntheticCXR(16))
        source = xrv.datasets.NIH_Dataset(folder, csvpath=table, views=["PA", "AP"], unique_patients=False)
        print(source)
        pixels = source[0]["img"]
        films = FromXRayVision(source, model.pretrained_cfg)
        images, targets = next(iter(DataLoader(films, batch_size=16)))
    print(f"pixels {pixels.min():.0f} to {pixels.max():.0f}, normalised {images.min():.2f} to {images.max():.2f}")
    print("column  torchxrayvision     causalcxr")
    for k, (theirs, ours) in enumerate(zip(source.pathologies, films.labels, strict=True)):
        print(f"{k:6}  {theirs:18}  {ours}, on {targets[:, k].sum():.0f} of {len(targets)} images")
    losses = causalcxr.CausalObjective(model)(images, targets)
    print(f"loss of the first step {losses['loss']:.3f}")


if __name__ == "__main__":
    main()
