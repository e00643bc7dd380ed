"""Radiographs with a painted marker that goes with a finding as often as is asked for."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcxr._checks import check_choice
from causalcxr.bench._draws import APPEARANCE_STREAM, ORDER_STREAM, count_agreeing
from causalcxr.bench._inputs import check_binary, check_correlation, check_index, whole_number
from causalcxr.bench.images import StratifiedImages
from causalcxr.bench.markers import MARKERS, marker_opacity, paint
from causalcxr.data.synthetic import stream

__all__ = ["ConfoundedDataset"]


class ConfoundedDataset(StratifiedImages):
    """Radiographs with one finding, and a marker painted on a share r of the positives and 1 - r of the negatives.

    r is called the correlation here: 0.5 is no association, 0.95 puts the marker on 95 % of the positives and 5 % of
    the negatives, and 0.05 is the reverse of that. A classifier that reads the marker and nothing else has an AUROC
    of r.

    The shares are exact, up to rounding to whole images, and not left to chance: each image has a random number, which
    depends on its index and the seed alone, and within a class the images with the lowest numbers agree with their
    label (positives have the marker, negatives have none). So a smaller r takes agreement away from some images and
    changes no other. How the marker looks depends on seed, index and kind alone: variants of a data set made by
    `with_correlation` and `without_markers` differ in which images have a marker, and in nothing else.

    Give training and test images different seeds, or their markers look alike image by image. Which patients are in
    which of the two is the caller's choice.

    Args:
        images: As for [`StratifiedImages`][causalcxr.bench.StratifiedImages]; painted on as they are read.
        targets: Whether the finding is there, zeros and ones.
        marker: Kind of marker, one of `MARKERS`, see [`paint`][causalcxr.bench.paint].
        correlation: The share r in [0, 1]; `None` for no markers at all.
        seed: Number of the data set.
        patient: Patient of each image.

    Attributes:
        targets: (N, 1) float32.
        strata: (N,) int64, whether the marker is on the image.
        patient: (N,) array, or `None`.

    Shape:
        Each item is an image (1, H, W), float32 in [0, 1], and its target (1,).

    Raises:
        ValueError: As for `StratifiedImages`; the marker is unknown, the correlation lies outside [0, 1], or a class
            has so few images that all of them would agree with their label, or none.
        TypeError: Targets are not numbers, or the seed is not a whole one.

    Example:
        >>> dataset = ConfoundedDataset(torch.rand(40, 1, 64, 64), [0, 1] * 20, marker="letter", correlation=0.9)
        >>> positive = dataset.targets[:, 0] == 1
        >>> int(dataset.strata[positive].sum()), int(dataset.strata[~positive].sum())
        (18, 2)
        >>> reversed_test = dataset.with_correlation(0.1)
    """

    def __init__(
        self,
        images: Any,
        targets: Any,
        *,
        marker: str,
        correlation: float | None,
        seed: int = 0,
        patient: Any = None,
    ) -> None:
        check_choice("marker", marker, MARKERS)
        self.marker, self.correlation = marker, correlation
        self.seed = whole_number("seed", seed, 0)
        strata = _choose_marked(check_binary("targets", targets), correlation, self.seed)
        super().__init__(images, targets, strata, patient=patient)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = check_index(index, len(self))
        image, target = super().__getitem__(index)
        if self.strata[index]:
            image, _ = paint(image, self.marker, self._look(index))
        return image, target

    def mask(self, index: int) -> Tensor:
        """Where the marker is on an image, (H, W) bool; all False on an image without one."""
        index = check_index(index, len(self))
        height, width = self._image(index).shape[1:]
        if not self.strata[index]:
            return torch.zeros(height, width, dtype=torch.bool)
        return torch.from_numpy(marker_opacity(self.marker, height, width, self._look(index)) > 0)

    def with_correlation(self, correlation: float) -> "ConfoundedDataset":
        """The same images and markers, with another association of marker and finding."""
        return self._variant(correlation)

    def without_markers(self) -> "ConfoundedDataset":
        """The same images, none of them with a marker."""
        return self._variant(None)

    def _variant(self, correlation: float | None) -> "ConfoundedDataset":
        return ConfoundedDataset(
            self._images,
            self.targets,
            marker=self.marker,
            correlation=correlation,
            seed=self.seed,
            patient=self.patient,
        )

    def _look(self, index: int) -> np.random.Generator:
        return stream(self.seed, APPEARANCE_STREAM, index, MARKERS.index(self.marker))


def _choose_marked(targets: Tensor, correlation: float | None, seed: int) -> Tensor:
    """Whether each image (N,) has the marker."""
    marked = torch.zeros(len(targets), dtype=torch.bool)
    if correlation is None:
        return marked
    correlation = check_correlation(correlation)
    numbers = torch.from_numpy(stream(seed, ORDER_STREAM).random(len(targets)))
    for label, name in ((1, "positives"), (0, "negatives")):
        members = (targets == label).nonzero()[:, 0]
        order = members[numbers[members].argsort()]
        agreeing = count_agreeing(len(order), correlation, name)
        marked[order[:agreeing]] = label == 1
        marked[order[agreeing:]] = label == 0
    return marked
