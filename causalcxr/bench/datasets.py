"""Radiographs with one finding and a confounder: as they are, or with a painted marker that goes with the finding."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalcxr._checks import check_choice
from causalcxr.bench._association import APPEARANCE_STREAM, ORDER_STREAM, check_binary, check_patient, count_agreeing
from causalcxr.bench.markers import MARKERS, paint
from causalcxr.data import read_image
from causalcxr.data.synthetic import stream

__all__ = ["ConfoundedDataset", "StratifiedImages"]


class StratifiedImages(Dataset[tuple[Tensor, Tensor]]):
    """Grey radiographs with one finding, a confounder that is there or not, and perhaps the patient.

    Wraps images that have their confounder by nature, such as the view. Choose them with
    [`subsample`][causalcxr.bench.subsample]. For training with the confounder known,
    `torch.utils.data.StackDataset(dataset, dataset.strata)` yields both.

    Args:
        images: Anything with a length and items that [`read_image`][causalcxr.data.read_image] takes: a tensor or array
            (N, 1, H, W) of floats in [0, 1] or of uint8, a list of paths, or a data set, of whose items (image, target)
            the image is taken.
        targets: Whether the finding is there, zeros and ones.
        strata: Whether the confounder is there, zeros and ones.
        patient: Patient of each image, numbers or strings. Intervals are then over patients.
        image_size: Side, or (height, width), to which images are resized, as of `model.pretrained_cfg`. Default: as
            they are.

    Attributes:
        targets: (N, 1) float32.
        strata: (N,) int64.
        patient: (N,) array, or `None`.

    Shape:
        targets and strata: (N,) or (N, 1). Each item is an image (1, H, W), float32 in [0, 1], and its target (1,).

    Raises:
        ValueError: There are no images, lengths differ, or a value is not 0 or 1; on access, as for `read_image`.
        TypeError: Targets or strata are not numbers.

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
        self._images = images.to_numpy() if hasattr(images, "to_numpy") else images  # a column is read by position
        self.image_size = image_size
        self.targets = check_binary("targets", targets, len(images)).float()[:, None]
        self.strata = check_binary("strata", strata, len(images))
        self.patient = None if patient is None else check_patient(patient, len(images))

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._image(range(len(self))[index]), self.targets[index].clone()  # a view could change the labels

    def _image(self, index: int) -> Tensor:
        """The image (1, H, W) in [0, 1] as it was given."""
        item = self._images[index]
        return read_image(item[0] if isinstance(item, (tuple, list)) else item, size=self.image_size)


class ConfoundedDataset(StratifiedImages):
    """Radiographs with one finding, and a marker painted on a share r of the positives and 1 - r of the negatives.

    r is called the correlation here: 0.5 is no association, and 1 - r the reverse of r. A classifier that reads the
    marker and nothing else has an AUROC of r.

    The shares are exact, up to rounding to whole images. A smaller r takes agreement of marker and label away from some
    images and changes no other. How the marker looks depends on seed, index and kind alone.

    Give training and test images different seeds, or their markers look alike image by image. Which patients are in
    which of the two is the caller's choice.

    Args:
        images: As for [`StratifiedImages`][causalcxr.bench.StratifiedImages]; painted on as they are read.
        targets: Whether the finding is there, zeros and ones.
        marker: Kind of marker, one of `MARKERS`, see [`paint`][causalcxr.bench.paint].
        correlation: The share r in [0, 1]; `None` for no markers at all.
        seed: Number of the data set.
        patient: Patient of each image.
        image_size: As for `StratifiedImages`.

    Attributes, shapes and errors are those of `StratifiedImages`. `strata` says whether the marker is on the image.

    Raises:
        ValueError: The marker is unknown, the correlation lies outside [0, 1], or a class has so few images that all of
            them would agree with their label, or none.

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
        """Where the marker is on an image, (H, W) bool; all False on an image without one."""
        return self._painted(index)[1]

    def with_correlation(self, correlation: float | None) -> "ConfoundedDataset":
        """The same images and markers, with another association of marker and finding."""
        given: dict[str, Any] = {"marker": self.marker, "seed": self.seed, "patient": self.patient}
        given["image_size"] = self.image_size
        return ConfoundedDataset(self._images, self.targets, correlation=correlation, **given)

    def without_markers(self) -> "ConfoundedDataset":
        """The same images, none of them with a marker."""
        return self.with_correlation(None)

    def _painted(self, index: int) -> tuple[Tensor, Tensor]:
        """The image with its marker, if it has one, and where that is."""
        index = range(len(self))[index]
        image = self._image(index)
        if not self.strata[index]:
            return image, torch.zeros(image.shape[1:], dtype=torch.bool)
        return paint(image, self.marker, stream(self.seed, APPEARANCE_STREAM, index, MARKERS.index(self.marker)))


def _choose_marked(targets: Tensor, correlation: float | None, seed: int) -> Tensor:
    """Whether each image (N,) has the marker: within a class, those of the lowest random numbers agree with it."""
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
