"""Films, labels and splits of the study, read into memory once.

A source is a folder in the layout of the NIH release. The first source is split by the official lists, with a fifth of
its training patients for validation. An optional second source is used only for training. It need not be a random
sample: see `Training.weight`.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from causalcxr.data import NIHChestXray14
from causalcxr.data.nih_tables import NIHTables
from causalcxr.losses import backdoor_weights

PARTS = ("train", "val", "test")
VAL_FRACTION, SPLIT_SEED = 0.2, 0
THREADS = 16


def read_pixels(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the films (N, S, S) of a folder in greyscale, in the order of its tables. All have one size."""
    with ThreadPoolExecutor(THREADS) as pool:
        films = pool.map(lambda path: np.asarray(Image.open(path).convert("L")), NIHChestXray14(folder, "all").paths)
        return np.stack(list(films))


def parts(tables: NIHTables, few: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of each split of the first source, `train`, `val` and `test`, or the first `few` of each."""
    row_of = {name: row for row, name in enumerate(tables.names)}
    names = {part: tables.split(part, val_fraction=VAL_FRACTION, seed=SPLIT_SEED).names for part in PARTS}
    return {part: np.array([row_of[name] for name in of_part[:few]]) for part, of_part in names.items()}


def fingerprint(names: list[str]) -> str:
    """Return an identifier of a list of films: its length, and the SHA-256 hash of the names."""
    return f"{len(names)} {hashlib.sha256(' '.join(names).encode()).hexdigest()}"


def scored_films(part: str, tables: NIHTables, scored: str) -> NIHTables:
    """Return the films of a split that have scores, after checking their fingerprint."""
    found = tables.select(parts(tables, few=int(scored.split()[0]))[part])
    if fingerprint(found.names) != scored:
        raise ValueError(f"the scores are of other {part} films than --data; pass the films of the run")
    return found


@dataclass
class Training:
    """Training films on the device.

    Attributes:
        films: uint8 (N_i, S_i, S_i) of each source.
        targets: (N, K), 0 or 1.
        weight: (N, K), P(y_k) of the first source's training split over P(y_k) of all training films. The weighted
            frequency of every finding is then that of the first source, however the second was selected, and films of
            both sources count equally for the same label.
        view: (N,), 1 for AP and 0 for PA.
    """

    films: list[Tensor]
    targets: Tensor
    weight: Tensor
    view: Tensor

    def of(self, rows: Tensor) -> list[Tensor]:
        """Return the films of ascending rows, by source."""
        found, start = [], 0
        for films in self.films:
            found.append(films[rows[(rows >= start) & (rows < start + len(films))] - start])
            start += len(films)
        return [part for part in found if len(part)]

    def adjusted_for_view(self) -> Tensor:
        """Return weights that remove the association of label and view and keep the frequencies of findings.

        Smoothing by one image bounds the weights, and leaves rare findings some association with the view.
        """
        return self.weight * backdoor_weights(self.targets.cpu(), self.view.cpu(), smoothing=1.0).to(self.weight)


def prevalence_weights(targets: Tensor, first: int) -> Tensor:
    """Return the weights (N, K) of `Training`. Rows before `first` belong to the first source."""
    share, of_all = (part.mean(dim=0, dtype=torch.float64) for part in (targets[:first], targets))
    positive, negative = share / of_all.clamp(min=1e-9), (1 - share) / (1 - of_all).clamp(min=1e-9)
    return torch.where(targets == 1, positive, negative).float()


def training_films(
    sources: list[tuple[npt.NDArray[np.uint8], NIHTables, npt.NDArray[np.int64]]], device: str
) -> Training:
    """Move the training films of all sources, given by their rows, to the device."""
    targets = [torch.from_numpy(tables.targets[rows]) for _, tables, rows in sources]
    labels = torch.cat(targets).to(device)
    views = [torch.from_numpy((tables.view[rows] == "AP").astype(np.int64)) for _, tables, rows in sources]
    return Training(
        films=[torch.from_numpy(pixels[rows]).to(device) for pixels, _, rows in sources],
        targets=labels,
        weight=prevalence_weights(labels, len(targets[0])),
        view=torch.cat(views).to(device),
    )


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resize uint8 films (N, S, S) like `causalcxr.data`, to (N, 1, size, size) in [0, 1]."""
    images = pixels[:, None].float() / 255
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp_(0, 1)
