"""From a radiograph to the tensor that a model takes: the same pixels in training and in use."""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from causalcxr._checks import check_tensor
from causalcxr.data.image import as_height_width, read_image, resize_image

__all__ = ["normalise", "normalise_for", "preprocess"]

LARGEST_ENLARGEMENT = 2.0
LARGEST_ASPECT = 2.0
SMALLEST_SPAN = 0.1


def preprocess(
    image: str | os.PathLike[str] | IO[bytes] | Tensor,
    cfg: Mapping[str, Any],
    *,
    size: int | tuple[int, int] | None = None,
) -> Tensor:
    """Read, resize and normalise one radiograph as a model's data config says.

    The whole image is resized to the size in the config, without keeping its aspect ratio, as in the training scripts:
    `read_image`, `resize_image`, `normalise`. `CausalCXR.preprocess` calls this with the config of the model.

    Args:
        image: What `read_image` takes, or a grey image with values in [0, 1].
        cfg: `input_size` (C, H, W), `mean` and `std`, as in `model.pretrained_cfg`.
        size: Side, or (height, width), in place of the config's.

    Shape:
        image: (1, H, W) or (H, W), of any size. Result: (1, C, height, width), float32 on the CPU.

    Returns:
        A batch of one.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: The image is a tensor that is not of floating point, or no image at all; or `size` is neither an
            integer nor two of them.
        ValueError: The file cannot be read, the tensor has another shape or values outside [0, 1], or `size` is not
            positive.

    Warns:
        UserWarning: The image is enlarged more than twofold, more than twice as long as wide or as wide as long, or
            spans less than a tenth of the range from black to white.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> preprocess(torch.rand(1, 128, 112), cfg).shape
        torch.Size([1, 3, 96, 96])
    """
    if isinstance(image, Tensor):
        name, grey = "the image", _check_image(image)
    else:
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else getattr(image, "name", "the image")
        grey = read_image(image)
    height, width = as_height_width(cfg["input_size"][1:] if size is None else size)
    _warn_if_odd(name, grey, height, width)
    return normalise(resize_image(grey, (height, width)).unsqueeze(0), cfg)


def normalise(images: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    """Repeat the grey channel and subtract the mean and divide by the standard deviation of a model's data config.

    Where the config has a mean and a standard deviation for another number of channels, each channel takes their
    average.

    Args:
        images: Grey images with values in [0, 1].
        cfg: `input_size` (C, H, W), of which the number of channels counts, `mean` and `std`.

    Shape:
        images: (B, 1, H, W). Result: (B, C, H, W), of the images' type and on their device.

    Raises:
        TypeError: The images are not a floating-point tensor.
        ValueError: The images have another shape.

    Example:
        >>> cfg = {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        >>> normalise(torch.ones(2, 1, 8, 8), cfg)[0, :, 0, 0]
        tensor([2., 2., 2.])
    """
    check_tensor("images", images, "B C H W", C=1)
    mean, std = (_of_channels(cfg[key], cfg["input_size"][0], images) for key in ("mean", "std"))
    return (images - mean) / std


def normalise_for(model: Any) -> Callable[[Tensor], Tensor]:
    """How images in [0, 1] become the input of a model: normalised, and repeated to its number of channels.

    Args:
        model: A model with timm's `pretrained_cfg`, whose mean and standard deviation are taken (their averages where
            the model has one channel and they are of three). Any other gets the images as they are.

    Returns:
        A function of images (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: The numbers of channels of the model and of its mean do not fit.

    Example:
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> normalise_for(model)(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 3, 64, 64])
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        return lambda images: images
    known = len(cfg["mean"])
    channels = getattr(model, "in_chans", known)
    if channels not in (1, known):
        raise ValueError(
            f"the model takes {channels} channels, but its pretrained_cfg has a mean of {known}; give `prepare`"
        )
    data_config = {"input_size": (channels,), "mean": cfg["mean"], "std": cfg["std"]}
    return lambda images: normalise(images, data_config)


def _of_channels(values: Any, channels: int, images: Tensor) -> Tensor:
    given = torch.tensor(values, dtype=images.dtype, device=images.device)
    if len(given) != channels:
        given = given.mean().expand(channels)
    return given.view(1, -1, 1, 1)


def _check_image(image: Tensor) -> Tensor:
    """Return the image as (1, H, W), or raise."""
    if image.ndim == 2:
        image = image.unsqueeze(0)
    check_tensor("image", image, "C H W", C=1)
    if image.numel() == 0 or not (image.amin() >= 0 and image.amax() <= 1):  # written so that NaN fails
        span = f"values from {image.amin():g} to {image.amax():g}" if image.numel() else "no pixels"
        raise ValueError(f"image must lie in [0, 1], before normalisation, but has {span}; divide 8-bit values by 255")
    return image


def _warn_if_odd(name: str, grey: Tensor, height: int, width: int) -> None:
    """Warn of an image that a model is unlikely to know; on behalf of the caller's caller."""
    rows, columns = grey.shape[1:]
    span = float(grey.amax() - grey.amin())
    checks = [
        (max(height / rows, width / columns) > LARGEST_ENLARGEMENT, f"{rows}x{columns} pixels for {height}x{width}"),
        (max(rows / columns, columns / rows) > LARGEST_ASPECT, f"{rows}x{columns} pixels, an unusual shape"),
        (span < SMALLEST_SPAN, f"values span {span:.2g} of the range from black to white"),
    ]
    for odd, problem in checks:
        if odd:
            warnings.warn(f"{name}: {problem}; the model was not trained on such images", stacklevel=3)
