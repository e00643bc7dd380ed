"""Generated chest radiographs with planted findings, for demonstrations and tests."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from causalcxr.data.image import height_and_width
from causalcxr.data.labels import NIH_LABELS, label_positions
from causalcxr.data.nih_tables import Box
from causalcxr.data.synthetic.anatomy import Film, develop, draw_anatomy, draw_film
from causalcxr.data.synthetic.canvas import get_canvas
from causalcxr.data.synthetic.findings import DENSEST, FINDINGS, Finding
from causalcxr.data.synthetic.markers import DEVICES, MARKERS, device_density, mark_image
from causalcxr.data.synthetic.sampling import Stream, check_prevalence, stream

__all__ = ["SyntheticCXR", "SyntheticSample"]

_AP_SHARE = 0.4  # as in ChestX-ray14
_FEMALE_SHARE = 0.45
_PORTABLE_SHARE = 0.6  # of the AP films
_MARKER_SHARES = {"letter": 0.85, "portable": 0.0, "tube": 0.25, "electrodes": 0.2, "border": 0.2}


class SyntheticSample(NamedTuple):
    """One generated radiograph and what it was made from."""

    image: torch.Tensor  # (1, H, W) float32 in [0, 1], before any transform
    target: torch.Tensor  # (K,) float32, 1 where the finding is planted
    masks: torch.Tensor  # (K, H, W) bool, where each finding is; all False where it is absent
    view: str  # "AP" or "PA"
    markers: tuple[str, ...]  # names of the markers on the film
    patient: int  # patient number
    sex: str  # "M" or "F"
    age: float  # years


class SyntheticCXR(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Schematic chest radiographs with planted findings, drawn when they are asked for.

    Each item shows a patient: lungs with vessels, ribs, spine, clavicles, heart, diaphragm and chest wall. The view is
    AP or PA. An AP film has a larger heart, a higher diaphragm and less exposure. There may be markers (a side letter,
    a "PORTABLE" stamp, a tube, electrodes, the black border of the collimator) and findings. These are sampled before
    the drawing: `sample` draws the same patient with any of them replaced.

    Item i depends on its number, ``seed`` and the sampling arguments alone, not on the length, the order of access, the
    worker or the process. A finding changes the image inside its mask and nowhere else. The pictures imitate the signs
    of the findings so that programs can learn and locate them; they stand in for no real radiograph.

    Args:
        length: Number of items.
        image_size: Side, or (height, width), from 64 to 1024 pixels each. The shorter side always shows 36 cm.
        labels: Findings to plant, and columns of the targets: names from `NIH_LABELS`, fewer or in another order where
            wanted.
        prevalence: Probability of each finding: one number, one for each of ``labels``, or a mapping from names to
            numbers (0 for those left out). Findings are independent of each other, of view and patient.
        marker_label: Label that the "PORTABLE" stamp accompanies; ``None`` puts the stamp on 60 % of the AP films.
        marker_correlation: Strength r in [-1, 1] of that association: the stamp is on (1 + r) / 2 of the positive films
            and on (1 - r) / 2 of the negative ones. A test set with -r has the spurious cue reversed.
        images_per_patient: Consecutive items that show one patient, at different times: position and exposure differ.
        seed: Number of the data set.
        transform: Applied to each image, a (1, H, W) float32 tensor in [0, 1].

    Attributes:
        label_names: Names of the columns of ``targets``.
        targets: (N, K) float32 tensor.
        patient: (N,) patient numbers.
        view: (N,) "AP" or "PA".
        sex: (N,) "M" or "F".
        age: (N,) years.
        marker_names: Names of the columns of ``markers``.
        markers: (N, M) bool, which of the M markers are on the film.

    Shape:
        Each item is an image (1, H, W) and its target (K,).

    Raises:
        ValueError: An unknown label, or a number out of range.

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
        prevalence: float | Sequence[float] | Mapping[str, float] = 0.2,
        marker_label: str | None = None,
        marker_correlation: float = 0.0,
        images_per_patient: int = 2,
        seed: int = 0,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        for name, value, least in (
            ("length", length, 1),
            ("images_per_patient", images_per_patient, 1),
            ("seed", seed, 0),
        ):
            if operator.index(value) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.image_size = height_and_width(image_size)
        if min(self.image_size) < 64 or max(self.image_size) > 1024:
            raise ValueError(f"image_size must be from 64 to 1024 pixels a side, got {image_size!r}")
        self.transform = transform
        self.seed = seed
        # Streams go by the position in NIH_LABELS, so a finding looks the same in any selection of labels.
        self._codes = label_positions(labels)
        self.label_names = tuple(NIH_LABELS[code] for code in self._codes)
        chance = np.zeros(len(NIH_LABELS))
        chance[self._codes] = check_prevalence(prevalence, self.label_names)
        # Each stream is filled row by row, so that row i never depends on the length.
        targets = (stream(seed, Stream.FINDINGS).random((length, len(NIH_LABELS))) < chance)[:, self._codes]
        ap = stream(seed, Stream.VIEW).random(length) < _AP_SHARE
        share = np.tile([_MARKER_SHARES[name] for name in MARKERS], (length, 1))
        share[:, MARKERS.index("portable")] = np.where(ap, _PORTABLE_SHARE, 0.0)
        if not -1 <= marker_correlation <= 1:
            raise ValueError(f"marker_correlation must be in [-1, 1], got {marker_correlation!r}")
        if marker_label is not None:
            positive = targets[:, label_positions([marker_label], self.label_names)[0]]
            share[:, MARKERS.index("portable")] = 0.5 + 0.5 * marker_correlation * np.where(positive, 1.0, -1.0)
        elif marker_correlation != 0:
            raise ValueError("marker_correlation needs marker_label, the label that the stamp accompanies")
        self.targets = torch.from_numpy(targets.astype(np.float32))
        self.markers = stream(seed, Stream.MARKERS).random(share.shape) < share
        self.view = np.where(ap, "AP", "PA")
        self.patient = np.arange(length) // images_per_patient
        people = stream(seed, Stream.PEOPLE).random((int(self.patient[-1]) + 1, 2))[self.patient]
        self.sex, self.age = np.where(people[:, 0] < _FEMALE_SHARE, "F", "M"), np.floor(18.0 + 70.0 * people[:, 1])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = self._index(index)
        film, findings = self._draw(index, self.targets[index], self.view[index])
        image = self._develop(index, film, findings, self.view[index], self.markers[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index].clone()  # a view would let callers change the labels

    def sample(
        self,
        index: int,
        *,
        target: npt.ArrayLike | torch.Tensor | None = None,
        view: str | None = None,
        markers: Iterable[str] | None = None,
    ) -> SyntheticSample:
        """Draw one item with its masks, or the same patient with other findings, view or markers.

        What is given replaces what was sampled and leaves all else as it was, noise included: the interventions do(X),
        do(view) and do(marker) of the structural causal model.

        Args:
            index: Number of the item.
            target: (K,) zeros and ones.
            view: "AP" or "PA".
            markers: Names from ``marker_names``; an empty list gives a film without markers.

        Returns:
            Image, target, masks, view, markers and patient.

        Raises:
            IndexError: There is no such item.
            ValueError: The target is not K zeros and ones, or the view or a marker is unknown.

        Example:
            >>> dataset = SyntheticCXR(10, image_size=64, labels=["Mass"], prevalence=1.0)
            >>> healthy = dataset.sample(0, target=[0.0])
            >>> bool(healthy.masks.any()), bool(dataset.sample(0).masks.any())
            (False, True)
        """
        index = self._index(index)
        present = self.targets[index].clone() if target is None else self._check_target(target)
        view = str(self.view[index]) if view is None else view
        if view not in ("AP", "PA"):
            raise ValueError(f"view must be 'AP' or 'PA', got {view!r}")
        marked = self.markers[index]
        if markers is not None:
            named = [markers] if isinstance(markers, str) else list(markers)
            if unknown := [name for name in named if name not in MARKERS]:
                raise ValueError(f"unknown marker {unknown[0]!r}; choose from: {', '.join(MARKERS)}")
            marked = np.array([name in named for name in MARKERS])
        film, findings = self._draw(index, present, view)
        return SyntheticSample(
            image=self._develop(index, film, findings, view, marked),
            target=present,
            masks=self._masks(findings),
            view=view,
            markers=tuple(name for name, on in zip(MARKERS, marked, strict=True) if on),
            patient=int(self.patient[index]),
            sex=str(self.sex[index]),
            age=float(self.age[index]),
        )

    def masks(self, index: int) -> torch.Tensor:
        """Where each finding of an item is.

        Args:
            index: Number of the item.

        Returns:
            (K, H, W) bool; all False where the finding is absent.

        Raises:
            IndexError: There is no such item.
        """
        index = self._index(index)
        return self._masks(self._draw(index, self.targets[index], self.view[index])[1])

    def boxes(self, index: int) -> list[Box]:
        """The smallest box around each mask of an item.

        Args:
            index: Number of the item.

        Returns:
            One box for each finding that is present, in the order of ``label_names``: the upper left corner and the
            size, in pixels of the image.

        Raises:
            IndexError: There is no such item.
        """
        boxes = []
        for name, mask in zip(self.label_names, self.masks(index).numpy(), strict=True):
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                size = (float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1))
                boxes.append(Box(name, float(columns[0]), float(rows[0]), *size))
        return boxes

    def _index(self, index: int) -> int:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return index % len(self)

    def _check_target(self, target: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
        given = torch.as_tensor(cast(Any, target), dtype=torch.float32)
        if given.shape != (len(self.label_names),) or not ((given == 0) | (given == 1)).all():
            raise ValueError(
                f"target must be {len(self.label_names)} zeros and ones, one for each of label_names, got {target!r}"
            )
        return given.clone()

    def _draw(self, index: int, target: torch.Tensor, view: str) -> tuple[Film, list[Finding | None]]:
        """The normal film of an item, and each of the K findings that is present."""
        patient = int(self.patient[index])
        anatomy = draw_anatomy(
            stream(self.seed, Stream.ANATOMY, patient),
            stream(self.seed, Stream.FILM, index, 0),
            ap=view == "AP",
            female=self.sex[index] == "F",
            age=float(self.age[index]),
        )
        film = draw_film(get_canvas(*self.image_size), anatomy)
        planted = [
            FINDINGS[name](film, stream(self.seed, Stream.PLANT, index, code)) if present else None
            for name, code, present in zip(self.label_names, self._codes, target.tolist(), strict=True)
        ]
        return film, planted

    def _develop(
        self, index: int, film: Film, findings: list[Finding | None], view: str, markers: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """The image (1, H, W) of a film with findings and markers."""
        density = np.zeros_like(film.density)
        for finding in findings:
            if finding is not None:
                density += finding.density
        density = film.density + np.minimum(density, DENSEST)
        names = [(code, name) for code, name in enumerate(MARKERS) if markers[code]]
        for code, name in names:
            if name in DEVICES:
                density += device_density(film, name, stream(self.seed, Stream.MARK, index, code))
        rng = stream(self.seed, Stream.FILM, index, 1)
        image = develop(density, rng, ap=view == "AP")
        for code, name in reversed(names):  # the border first: letters lie on it
            if name not in DEVICES:
                mark_image(image, film.canvas, name, stream(self.seed, Stream.MARK, index, code))
        return torch.from_numpy(image)[None]

    def _masks(self, findings: list[Finding | None]) -> torch.Tensor:
        masks = np.zeros((len(findings), *self.image_size), dtype=bool)
        for mask, finding in zip(masks, findings, strict=True):
            if finding is not None:
                mask[:] = finding.mask
        return torch.from_numpy(masks)
