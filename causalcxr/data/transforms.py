"""Preprocess radiographs into model inputs, identically for training and inference."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcxr._checks import readable
from causalcxr.data.image import ImageLike, height_and_width, read_image, resize_image

__all__ = ["normalise", "preprocess"]

LARGEST_ENLARGEMENT = 2.0
LARGEST_ASPECT = 2.0
SMALLEST_SPAN = 0.26  # 14-bit values in a 16-bit file span 0.25


def preprocess(
    image: ImageLike | Sequence[ImageLike], cfg: Mapping[str, Any], *, size: int | tuple[int, int] | None = None
) -> Tensor:
    """Read, resize and normalise radiographs according to a model's data config.

    Applies `read_image`, `resize_image` and `normalise`. The whole image is resized. Its aspect ratio is not preserved.
    Datasets with `image_size` read and resize with the same functions. `CausalCXR.preprocess` calls this function with
    the model's config.

    Args:
        image: Anything `read_image` accepts (a path, an open file, a Pillow image, an array or a tensor), or a list.
        cfg: `input_size` (C, H, W), `mean` and `std`, as in `model.pretrained_cfg`.
        size: Side, or (height, width), to use instead of the config's.

    Shape:
        Output: (1, C, height, width), or (B, C, height, width) for a list of B images; float32 on the CPU.

    Raises:
        FileNotFoundError, TypeError, ValueError: See `read_image`. An empty list is a `ValueError`.

    Warns:
        UserWarning: An image is enlarged more than twofold, has one side more than twice the other, or spans at most
            about a quarter of the range from black to white.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> preprocess(torch.rand(1, 128, 112), cfg).shape
        torch.Size([1, 3, 96, 96])
    """
    images: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
    if not images:
        raise ValueError("the list contains no image")
    resized = []
    for each in images:
        resized.append(read_resized(each, cfg, size))
    return normalise(torch.stack(resized), cfg)


def read_resized(image: ImageLike, cfg: Mapping[str, Any], size: int | tuple[int, int] | None = None) -> Tensor:
    """Read and resize one radiograph to (1, H, W), the steps of `preprocess` before `normalise`."""
    height, width = height_and_width(cfg["input_size"][1:] if size is None else size)
    grey = read_image(image)
    _warn_if_odd(image, grey, height, width)
    return resize_image(grey, (height, width))


def normalise(images: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    """Repeat the grey channel and normalise by the mean and standard deviation of a model's data config.

    If `mean` or `std` has a different number of channels, its average is used for all channels.

    Args:
        images: Grey images with values in [0, 1].
        cfg: `input_size` (C, H, W), of which only C is used, `mean` and `std`, as in `model.pretrained_cfg`.

    Shape:
        images: (B, 1, H, W). Output: (B, C, H, W), with the dtype and device of the images.

    Raises:
        ValueError: The images have another shape, are not floating-point, or exceed 2 in magnitude, as pixels in
            [0, 255] do. The range is not checked on an accelerator.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        >>> normalise(torch.ones(2, 1, 8, 8), cfg)[0, :, 0, 0]
        tensor([2., 2., 2.])
    """
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise ValueError(
            "images must be a floating-point tensor of shape (B, 1, H, W), got "
            f"{images.dtype} {tuple(images.shape)}; use `preprocess` for other images"
        )
    if readable(images) and images.numel() and (largest := float(images.detach().abs().amax())) > 2:  # noise may pass 1
        raise ValueError(f"images must lie in [0, 1], but reach {largest:g}; divide 8-bit values by 255")
    mean, std = (_of_channels(cfg[key], cfg["input_size"][0]) for key in ("mean", "std"))
    # Python numbers, not a tensor, which would be copied to an accelerator (and stall it) at every step.
    return torch.cat([(images - m) / s for m, s in zip(mean, std, strict=True)], dim=1)


def _of_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _warn_if_odd(image: Any, grey: Tensor, height: int, width: int) -> None:
    """Warn about an image unlike the training images; the warning points at the caller of `preprocess`."""
    name = image if isinstance(image, (str, os.PathLike)) else getattr(image, "name", None) or "the image"
    rows, columns = grey.shape[1:]
    span = np.ptp(grey.numpy())  # in NumPy, as PyTorch's threads would compete with those reading images
    checks = [
        (max(height / rows, width / columns) > LARGEST_ENLARGEMENT, f"{rows}x{columns} enlarged to {height}x{width}"),
        (max(rows / columns, columns / rows) > LARGEST_ASPECT, f"{rows}x{columns} pixels, an unusual shape"),
        (span < SMALLEST_SPAN, f"values span {span:.2g} of the range from black to white"),
    ]
    for odd, problem in checks:
        if odd:
            warnings.warn(f"{name}: {problem}; the model was not trained on such images", stacklevel=4)
