"""Synthetic chest radiographs with planted findings, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from causalcxr._checks import check_choice, check_count
from causalcxr.data.image import height_and_width
from causalcxr.data.labels import NIH_LABELS, label_positions
from causalcxr.data.synthetic.anatomy import Film, develop
from causalcxr.data.synthetic.canvas import get_canvas
from causalcxr.data.synthetic.findings import FINDINGS
from causalcxr.data.synthetic.markers import MARKERS, mark_image

__all__ = ["SyntheticCXR", "SyntheticSample", "stream"]

_AP_SHARE = 0.4  # as in ChestX-ray14
_FEMALE_SHARE = 0.45
_PORTABLE_SHARE = 0.6  # of the AP films
_LETTER_SHARE = 0.85
_MARKER_NUMBERS = 5  # random numbers per film: more than there are markers, so that a new marker changes no other

# Purposes of random streams. Each seed, purpose, and item or patient has its own stream, so that adding a purpose does
# not change existing random numbers.
_FINDINGS, _VIEW, _MARKERS, _PEOPLE, _ANATOMY, _FILM, _PLANT, _MARK = range(8)


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of a seed, a purpose and further keys. `SyntheticCXR` uses purposes 0 to 7."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class SyntheticSample(NamedTuple):
    """A synthetic radiograph and its ground truth."""

    image: torch.Tensor  # (1, H, W) float32 in [0, 1], before any transform
    target: torch.Tensor  # (K,) float32, 1 where the finding is planted
    masks: torch.Tensor  # (K, H, W) bool, location of each finding; all False if absent
    view: str  # "AP" or "PA"
    markers: tuple[str, ...]  # names of the markers on the film


class SyntheticCXR(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Schematic chest radiographs with planted findings, drawn on demand.

    Each item shows a patient in AP or PA view. AP films have a larger heart, a higher diaphragm and lower exposure.
    A film may have findings and markers: a side letter and, on 60 % of AP films, a "PORTABLE" stamp. View, findings and
    markers are sampled before drawing, so `sample` can draw the same patient with any of them replaced. For a marker
    that is associated with a finding, use [`ConfoundedDataset`][causalcxr.bench.ConfoundedDataset].

    Item i depends only on i, `seed` and the sampling arguments, not on the length, access order, worker or process. A
    finding changes the image only inside its mask. The images imitate the signs of the findings so that models can
    learn and locate them. They are no substitute for real radiographs.

    Args:
        length: Number of items.
        image_size: Side, or (height, width), from 64 to 1024 pixels each. The shorter side always spans 36 cm.
        labels: Findings to plant, and columns of the targets: any names from `NIH_LABELS`, in any order.
        prevalence: Probability of each finding: one number, or one per label. Findings are independent of each other,
            of the view and of the patient.
        images_per_patient: Number of consecutive items of the same patient. Their position and exposure differ.
        seed: Random seed.
        transform: Applied to each image, a (1, H, W) float32 tensor in [0, 1].

    Attributes:
        label_names: Names of the columns of `targets`.
        targets: (N, K) float32 tensor.
        patient: (N,) patient numbers.
        view: (N,) "AP" or "PA".
        sex: (N,) "M" or "F".
        age: (N,) years.
        marker_names: Names of the columns of `markers`.
        markers: (N, M) bool array, True for the markers on each film.

    Shape:
        Each item is an image (1, H, W) and its target (K,).

    Raises:
        ValueError: A label is unknown or a number is out of range.

    Example:
        >>> dataset = SyntheticCXR(100, image_size=64, labels=["Effusion", "Nodule"], prevalence=0.5)
        >>> image, target = dataset[0]
        >>> image.shape, target.shape, dataset.targets.shape
        (torch.Size([1, 64, 64]), torch.Size([2]), torch.Size([100, 2]))
    """

    marker_names: tuple[str, ...] = MARKERS

    def __init__(
        self,
        length: int = 1000,
        *,
        image_size: int | tuple[int, int] = 128,
        labels: Sequence[str] = NIH_LABELS,
        prevalence: float | Sequence[float] = 0.2,
        images_per_patient: int = 2,
        seed: int = 0,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        check_count("length", length)
        check_count("images_per_patient", images_per_patient)
        self.image_size = height_and_width(image_size)
        if min(self.image_size) < 64 or max(self.image_size) > 1024:
            raise ValueError(f"image_size must be 64 to 1024 pixels per side, got {image_size!r}")
        chance = np.asarray(prevalence, dtype=np.float64)
        if chance.shape not in ((), (len(labels),)) or not ((chance >= 0) & (chance <= 1)).all():
            raise ValueError(f"prevalence must be in [0, 1], one number or one per label, got {prevalence!r}")
        self.transform = transform
        self.seed = seed
        # Streams are keyed by position in NIH_LABELS, so a finding looks the same in any selection of labels.
        self._codes = label_positions(labels)
        self.label_names = tuple(NIH_LABELS[code] for code in self._codes)
        # Draw row by row, so that row i does not depend on the length.
        targets = stream(seed, _FINDINGS).random((length, len(NIH_LABELS)))[:, self._codes] < chance
        ap = stream(seed, _VIEW).random(length) < _AP_SHARE
        self.targets = torch.from_numpy(targets.astype(np.float32))
        chances = np.stack([np.full(length, _LETTER_SHARE), np.where(ap, _PORTABLE_SHARE, 0.0)], axis=1)
        self.markers = stream(seed, _MARKERS).random((length, _MARKER_NUMBERS))[:, : len(MARKERS)] < chances
        self.view = np.where(ap, "AP", "PA")
        self.patient = np.arange(length) // images_per_patient
        people = stream(seed, _PEOPLE).random((int(self.patient[-1]) + 1, 2))[self.patient]
        self.sex, self.age = np.where(people[:, 0] < _FEMALE_SHARE, "F", "M"), np.floor(18.0 + 70.0 * people[:, 1])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self.sample(index)
        return sample.image if self.transform is None else self.transform(sample.image), sample.target

    def sample(
        self, index: int, *, target: Any = None, view: str | None = None, markers: Iterable[str] | None = None
    ) -> SyntheticSample:
        """Draw one item with its masks, optionally with other findings, view or markers.

        An argument replaces the sampled value and leaves everything else unchanged, including the noise. These are the
        interventions do(X), do(view) and do(marker) of the structural causal model.

        Args:
            index: Index of the item.
            target: (K,) zeros and ones.
            view: "AP" or "PA".
            markers: Names from `marker_names`; an empty list removes all markers.

        Raises:
            IndexError: The index is out of range.
            ValueError: The target is not K zeros and ones, or the view or a marker is unknown.

        Example:
            >>> dataset = SyntheticCXR(10, image_size=64, labels=["Mass"], prevalence=1.0)
            >>> healthy = dataset.sample(0, target=[0.0])
            >>> bool(healthy.masks.any()), bool(dataset.sample(0).masks.any())
            (False, True)
        """
        index = range(len(self))[index]
        present = torch.as_tensor(self.targets[index] if target is None else target, dtype=torch.float32).clone()
        if present.shape != self.targets.shape[1:] or not ((present == 0) | (present == 1)).all():
            raise ValueError(f"target must have one 0 or 1 for each of {self.label_names}, got {target!r}")
        view = str(self.view[index]) if view is None else view
        check_choice("view", view, ("AP", "PA"))
        if markers is None:
            markers = [name for name, on in zip(MARKERS, self.markers[index], strict=True) if on]
        markers = set(markers)
        for name in markers:
            check_choice("a marker", name, MARKERS)
        film = Film(
            get_canvas(*self.image_size),
            stream(self.seed, _ANATOMY, int(self.patient[index])),
            stream(self.seed, _FILM, index, 0),
            ap=view == "AP",
            female=self.sex[index] == "F",
            age=float(self.age[index]),
        )
        masks = np.zeros((len(present), *self.image_size), dtype=bool)
        density = film.density
        for k in np.flatnonzero(present):
            finding = FINDINGS[self.label_names[k]](film, stream(self.seed, _PLANT, index, self._codes[k]))
            density = density + finding.density
            masks[k] = finding.mask
        image = develop(density, stream(self.seed, _FILM, index, 1), ap=view == "AP")
        on_film = tuple(name for name in MARKERS if name in markers)
        for name in on_film:
            mark_image(image, film.canvas, name, stream(self.seed, _MARK, index, MARKERS.index(name)))
        return SyntheticSample(torch.from_numpy(image)[None], present, torch.from_numpy(masks), view, on_film)
