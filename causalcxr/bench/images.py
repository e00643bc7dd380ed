"""Images of one finding with the confounder and the patient of each: what the benchmark trains and tests on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalcxr._checks import check_tensor
from causalcxr.bench._inputs import check_binary, check_index, check_patient

__all__ = ["StratifiedImages"]


class StratifiedImages(Dataset[tuple[Tensor, Tensor]]):
    """Grey radiographs with one finding, a confounder that is there or not, and perhaps the patient.

    Wraps images that have their confounder by nature, such as the view: choose them with
    [`subsample`][causalcxr.bench.subsample], take them with `torch.utils.data.Subset`. For training with the
    confounder known, `torch.utils.data.StackDataset(dataset, dataset.strata)` yields both.

    Args:
        images: Anything with a length and items (1, H, W): a tensor (N, 1, H, W), an array, a list, or a data set, of
            whose items (image, target) the image is taken. Floats in [0, 1], or uint8 from 0 to 255.
        targets: Whether the finding is there, zeros and ones.
        strata: Whether the confounder is there, zeros and ones.
        patient: Patient of each image, numbers or strings. Intervals are then over patients.

    Attributes:
        targets: (N, 1) float32.
        strata: (N,) int64.
        patient: (N,) array, or `None`.

    Shape:
        targets and strata: (N,) or (N, 1). Each item is an image (1, H, W), float32 in [0, 1], and its target (1,).

    Raises:
        ValueError: There are no images, lengths differ, or a value is not 0 or 1; on access, an image has another shape
            or lies outside [0, 1].
        TypeError: Targets or strata are not numbers.

    Example:
        >>> images = torch.randint(256, (6, 1, 64, 64), dtype=torch.uint8)
        >>> dataset = StratifiedImages(images, targets=[0, 1, 0, 1, 0, 1], strata=[0, 0, 0, 1, 1, 1])
        >>> image, target = dataset[3]
        >>> image.shape, image.dtype, target
        (torch.Size([1, 64, 64]), torch.float32, tensor([1.]))
    """

    def __init__(self, images: Any, targets: Any, strata: Any, *, patient: Any = None) -> None:
        if len(images) == 0:
            raise ValueError("images must not be empty")
        self._images = images
        self.targets = check_binary("targets", targets, len(images)).float()[:, None]
        self.strata = check_binary("strata", strata, len(images))
        self.patient = None if patient is None else check_patient(patient, len(images))

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = check_index(index, len(self))
        return self._image(index), self.targets[index].clone()  # a view would let callers change the labels

    def _image(self, index: int) -> Tensor:
        """The image (1, H, W) in [0, 1] as it was given."""
        item = self._images[index]
        item = item[0] if isinstance(item, (tuple, list)) else item
        image = item if isinstance(item, Tensor) else torch.from_numpy(np.array(item))  # a copy, as of read-only files
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        check_tensor(f"image {index}", image, "C H W", C=1)
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise ValueError(
                f"image {index} must lie in [0, 1], got values from {low:g} to {high:g}; give 8-bit values as uint8, "
                "and images before they are normalised"
            )
        return image.to(torch.float32, copy=True)
