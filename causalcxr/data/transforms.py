"""From radiographs to the tensor that a model takes: the same pixels in training and in use."""

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
SMALLEST_SPAN = 0.26  # 14 bits in a file of 16 span 0.25


def preprocess(
    image: ImageLike | Sequence[ImageLike], cfg: Mapping[str, Any], *, size: int | tuple[int, int] | None = None
) -> Tensor:
    """Read, resize and normalise radiographs as a model's data config says.

    The whole image is resized, without keeping its aspect ratio: `read_image`, `resize_image`, `normalise`. A data set
    with `image_size` reads and resizes with the same functions. `CausalCXR.preprocess` calls this with the config of
    the model.

    Args:
        image: What `read_image` takes: a path, an open file, a Pillow image, an array or a tensor. Or a list of them.
        cfg: `input_size` (C, H, W), `mean` and `std`, as in `model.pretrained_cfg`.
        size: Side, or (height, width), in place of the config's.

    Shape:
        Result: (1, C, height, width), or (B, C, height, width) for a list of B images; float32 on the CPU.

    Raises:
        FileNotFoundError, TypeError, ValueError: As for `read_image`. Or the list is empty.

    Warns:
        UserWarning: An image is enlarged more than twofold, is more than twice as long as wide or as wide as long, or
            spans about a quarter of the range from black to white, or less.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> preprocess(torch.rand(1, 128, 112), cfg).shape
        torch.Size([1, 3, 96, 96])
    """
    images: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
    if not images:
        raise ValueError("there is no image in the list")
    resized = []
    for each in images:
        resized.append(read_resized(each, cfg, size))
    return normalise(torch.stack(resized), cfg)


def read_resized(image: ImageLike, cfg: Mapping[str, Any], size: int | tuple[int, int] | None = None) -> Tensor:
    """Return one radiograph as `preprocess` has it before `normalise`, (1, H, W)."""
    height, width = height_and_width(cfg["input_size"][1:] if size is None else size)
    grey = read_image(image)
    _warn_if_odd(image, grey, height, width)
    return resize_image(grey, (height, width))


def normalise(images: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    """Repeat the grey channel, subtract the mean and divide by the standard deviation of a model's data config.

    If the config has a mean and a standard deviation for another number of channels, each channel takes their average.

    Args:
        images: Grey images with values in [0, 1].
        cfg: `input_size` (C, H, W), of which the number of channels counts, `mean` and `std`, as in
            `model.pretrained_cfg`.

    Shape:
        images: (B, 1, H, W). Result: (B, C, H, W), of the images' type and on their device.

    Raises:
        ValueError: The images have another shape, or are not of floating point, or reach beyond 2 like pixels of 0 to
            255. On an accelerator values are not looked at.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        >>> normalise(torch.ones(2, 1, 8, 8), cfg)[0, :, 0, 0]
        tensor([2., 2., 2.])
    """
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise ValueError(
            f"images must be a floating-point (B, 1, H, W), got {images.dtype} {tuple(images.shape)}; "
            "`preprocess` takes other images"
        )
    if readable(images) and images.numel() and (largest := float(images.detach().abs().amax())) > 2:  # noise may pass 1
        raise ValueError(f"images must lie in [0, 1], but reach {largest:g}; divide 8-bit values by 255")
    mean, std = (_of_channels(cfg[key], cfg["input_size"][0]) for key in ("mean", "std"))
    # Numbers of Python, not a tensor: copying one to an accelerator at every step would stall it.
    return torch.cat([(images - m) / s for m, s in zip(mean, std, strict=True)], dim=1)


def _of_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _warn_if_odd(image: Any, grey: Tensor, height: int, width: int) -> None:
    """Warn of an image that a model is unlikely to know; the warning names the caller of `preprocess`."""
    name = image if isinstance(image, (str, os.PathLike)) else getattr(image, "name", None) or "the image"
    rows, columns = grey.shape[1:]
    span = np.ptp(grey.numpy())  # in NumPy, since threads of PyTorch would get in the way of those that read
    checks = [
        (max(height / rows, width / columns) > LARGEST_ENLARGEMENT, f"{rows}x{columns} pixels for {height}x{width}"),
        (max(rows / columns, columns / rows) > LARGEST_ASPECT, f"{rows}x{columns} pixels, an unusual shape"),
        (span < SMALLEST_SPAN, f"values span {span:.2g} of the range from black to white"),
    ]
    for odd, problem in checks:
        if odd:
            warnings.warn(f"{name}: {problem}; the model was not trained on such images", stacklevel=4)
