"""Datasets of radiographs with one finding and a confounder, either natural or a painted marker."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalcxr._checks import check_choice
from causalcxr.bench._association import APPEARANCE_STREAM, ORDER_STREAM, check_binary, count_agreeing
from causalcxr.bench.markers import MARKERS, paint
from causalcxr.data import read_image
from causalcxr.data.synthetic import stream
from causalcxr.metrics._inputs import check_groups

__all__ = ["ConfoundedDataset", "StratifiedImages"]


class StratifiedImages(Dataset[tuple[Tensor, Tensor]]):
    """Greyscale radiographs with one finding, a binary confounder and, optionally, the patient.

    Use it for images with a natural confounder such as the view, and select them with
    [`subsample`][causalcxr.bench.subsample]. To train with the confounder known, weight the loss by
    `causalcxr.losses.backdoor_weights(dataset.targets, dataset.strata)`.

    Args:
        images: Any sequence of items that [`read_image`][causalcxr.data.read_image] accepts: a tensor or array
            (N, 1, H, W) of floats in [0, 1] or of uint8, a list of paths, or a dataset of (image, target) items.
        targets: Presence of the finding, 0 or 1.
        strata: Presence of the confounder, 0 or 1.
        patient: Patient of each image, numbers or strings. If given, intervals are over patients.
        image_size: Side, or (height, width), to resize images to, e.g. that of the model. Default: no resizing.

    Attributes:
        targets: (N, 1) float32.
        strata: (N,) int64.
        patient: (N,) array, or `None`.

    Shape:
        targets and strata: (N,) or (N, 1). Each item is an image (1, H, W), float32 in [0, 1], and its target (1,).

    Raises:
        ValueError: There are no images, lengths differ, a value is not 0 or 1, or a patient is missing.
        TypeError: Targets or strata are not numbers. On access, errors are those of `read_image`.

    Example:
        >>> images = torch.randint(256, (6, 1, 64, 64), dtype=torch.uint8)
        >>> dataset = StratifiedImages(images, targets=[0, 1, 0, 1, 0, 1], strata=[0, 0, 0, 1, 1, 1])
        >>> image, target = dataset[3]
        >>> image.shape, image.dtype, target
        (torch.Size([1, 64, 64]), torch.float32, tensor([1.]))
    """

    def __init__(
        self,
        images: Any,
        targets: Any,
        strata: Any,
        *,
        patient: Any = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        if len(images) == 0:
            raise ValueError("images must not be empty")
        self._images = images.to_numpy() if hasattr(images, "to_numpy") else images  # index a column by position
        self.image_size = image_size
        self.targets = check_binary("targets", targets, len(images)).float()[:, None]
        self.strata = check_binary("strata", strata, len(images))
        self.patient = None if patient is None else check_groups("patient", patient, len(images))

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._image(range(len(self))[index]), self.targets[index].clone()  # a view could change the labels

    def _image(self, index: int) -> Tensor:
        """Return the image (1, H, W) in [0, 1] without a marker."""
        item = self._images[index]
        return read_image(item[0] if isinstance(item, (tuple, list)) else item, size=self.image_size)


class ConfoundedDataset(StratifiedImages):
    """Radiographs with one finding, and a marker painted on a share r of the positives and 1 - r of the negatives.

    r is called the correlation: 0.5 means no association, and 1 - r reverses r. A classifier that reads only the marker
    has an AUROC of r.

    The shares are exact, up to rounding to whole images. Lowering r flips the presence of the marker on as few images
    as possible. The appearance of a marker depends only on seed, index and kind.

    Use different seeds for training and test images. Otherwise, image i has the same marker in both. Splitting by
    patient is up to the caller.

    Args:
        images: As for [`StratifiedImages`][causalcxr.bench.StratifiedImages]. Markers are painted on access.
        targets: Presence of the finding, 0 or 1.
        marker: Kind of marker, one of `MARKERS`, see [`paint`][causalcxr.bench.paint].
        correlation: The share r in [0, 1]; `None` for no markers.
        seed: Random seed.
        patient: Patient of each image.
        image_size: As for `StratifiedImages`.

    Attributes, shapes and errors are those of `StratifiedImages`. `strata` is 1 for images with the marker.

    Raises:
        ValueError: The marker is unknown, the correlation is outside [0, 1], or a class has too few images for that
            correlation.

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
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        check_choice("marker", marker, MARKERS)
        self.marker, self.correlation, self.seed = marker, correlation, seed
        strata = _choose_marked(check_binary("targets", targets), correlation, seed)
        super().__init__(images, targets, strata, patient=patient, image_size=image_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._painted(index)[0], self.targets[index].clone()

    def mask(self, index: int) -> Tensor:
        """Return the mask of the marker on an image, (H, W) bool; all False without a marker."""
        return self._painted(index)[1]

    def with_correlation(self, correlation: float | None) -> "ConfoundedDataset":
        """Return a dataset of the same images and markers, with another correlation."""
        given: dict[str, Any] = {"marker": self.marker, "seed": self.seed, "patient": self.patient}
        given["image_size"] = self.image_size
        return ConfoundedDataset(self._images, self.targets, correlation=correlation, **given)

    def without_markers(self) -> "ConfoundedDataset":
        """Return a dataset of the same images without markers."""
        return self.with_correlation(None)

    def _painted(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image with its marker, if any, and the mask of the marker."""
        index = range(len(self))[index]
        image = self._image(index)
        if not self.strata[index]:
            return image, torch.zeros(image.shape[1:], dtype=torch.bool)
        return paint(image, self.marker, stream(self.seed, APPEARANCE_STREAM, index, MARKERS.index(self.marker)))


def _choose_marked(targets: Tensor, correlation: float | None, seed: int) -> Tensor:
    """Choose the images with a marker (N,): within a class, those with the lowest random numbers match the label."""
    marked = torch.zeros(len(targets), dtype=torch.bool)
    if correlation is None:
        return marked
    numbers = torch.from_numpy(stream(seed, ORDER_STREAM).random(len(targets)))
    for label, name in ((1, "positives"), (0, "negatives")):
        members = (targets == label).nonzero()[:, 0]
        order = members[numbers[members].argsort()]
        agreeing = count_agreeing(len(order), correlation, name)
        marked[order[:agreeing]] = label == 1
        marked[order[agreeing:]] = label == 0
    return marked
