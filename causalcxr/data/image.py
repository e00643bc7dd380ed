"""Read radiographs as one-channel tensors in [0, 1] from PNG, JPEG, TIFF and DICOM files, Pillow images and arrays."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from numbers import Integral
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from causalcxr.data.dicom import is_dicom, read_dicom

__all__ = ["ImageLike", "height_and_width", "is_dicom", "read_image", "resize_image"]

ImageLike: TypeAlias = str | os.PathLike[str] | IO[bytes] | Image.Image | npt.NDArray[Any] | torch.Tensor

_FORMATS = ("PNG", "JPEG", "TIFF")
_JPEG_END = b"\xff\xd9"
_TAIL = 1024  # the end marker must lie within this many bytes of the end, as some writers pad after it
_COLOURED, _LARGEST_COLOURED_PART = 25, 0.25  # difference of 8-bit channels; fraction of pixels
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8


def read_image(image: ImageLike, *, size: int | tuple[int, int] | None = None) -> torch.Tensor:
    """Read a radiograph in any supported format as one grey channel.

    Grey, RGB, palette, 1-bit and 16-bit files of the same radiograph give the same tensor. 8-bit values are divided by
    255, 16-bit values by 65535, and 12-bit values of a TIFF by 4095. A TIFF that declares zero as white is inverted.
    Alpha is dropped, colour is reduced to luminance, and EXIF orientation is applied. PNG checksums are verified. The
    other formats have none.

    DICOM requires pydicom. The image is returned as displayed: the modality look-up table or rescale is applied, then
    the VOI look-up table or the first window, and MONOCHROME1 is inverted. Without a window, the range of the declared
    bits is mapped to [0, 1], or the range of the pixels if they span less than half of it. Padding declared in the
    file is ignored when the range is computed, and is black.

    Args:
        image: One of:

            - the path of a PNG, JPEG, TIFF or DICOM file;
            - such a file, opened in binary mode. If seekable, it is read from its start;
            - a Pillow image;
            - an array or a tensor. `uint8` and `uint16` are divided by 255 and 65535. Floating-point values must lie in
              [0, 1] already.
        size: Side, or (height, width), to resize to with `resize_image`. `None` keeps the original size.

    Shape:
        - Array or tensor: (H, W) or (1, H, W). A `uint8` array may also be (H, W, 3) or (H, W, 4).
        - Output: (1, H, W), float32 in [0, 1], on the CPU.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: The file is DICOM and pydicom is not installed.
        ValueError: The file is damaged, is in another format, has several pages or frames, or is of another modality,
            e.g. CT. Or the array has another shape or range, or `size` is not positive.
        TypeError: `image` is none of the above, or an array of another dtype.

    Warns:
        UserWarning: The image is in colour: the channels differ by more than a tenth of their range in more than a
            quarter of the pixels, more than coloured marks cover. Or a DICOM file has raw pixels (FOR PROCESSING), or
            its header names a body part other than the chest or a view other than AP or PA.

    Example:
        >>> import os, tempfile
        >>> from PIL import Image
        >>> path = os.path.join(tempfile.mkdtemp(), "white.png")
        >>> Image.new("RGBA", (6, 4), (255, 255, 255, 0)).save(path)
        >>> read_image(path).shape, read_image(path).min().item()
        (torch.Size([1, 4, 6]), 1.0)
        >>> read_image(np.zeros((6, 4), dtype=np.uint8), size=8).shape
        torch.Size([1, 8, 8])
    """
    if isinstance(image, Image.Image):
        grey = _pillow_values(image)
    elif isinstance(image, (str, os.PathLike)) or hasattr(image, "read"):
        grey = _file_values(image)
    elif isinstance(image, torch.Tensor) or hasattr(image, "__array__"):
        grey = _array_values(image)
    else:
        raise TypeError(
            "image must be a path, a file opened in binary mode, a Pillow image, an array or a tensor, "
            f"but got {type(image).__name__}"
        )
    result = torch.from_numpy(grey).unsqueeze(0)
    return result if size is None else resize_image(result, size)


def resize_image(image: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Resize a grey image (1, H, W) in [0, 1] to a side or (height, width), as float32 on the CPU.

    The interpolation is bilinear and antialiased. `resize_image(read_image(path), size)` and
    `read_image(path, size=size)` are bitwise equal.
    """
    height, width = height_and_width(size)
    image = image.detach().float().cpu()
    if image.shape[1:] == (height, width):  # the rest would take as long as reading the file
        return image
    # In float, so that 8-bit and 16-bit files of the same radiograph stay equal; this is as fast as 8 bits.
    resized = Image.fromarray(image[0].numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).clip(0, 1)).unsqueeze(0)  # the weights sum to 1 up to rounding


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a side or (height, width); raise `ValueError` unless positive integers."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"size must be a positive integer or (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


def _file_values(file: Any) -> npt.NDArray[np.float32]:
    """Return the grey values (H, W) of a file; any error from damaged bytes becomes a `ValueError` that names it."""
    if isinstance(file, (str, os.PathLike)):
        name, data = repr(os.fspath(file)), Path(file).read_bytes()
    else:
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # pipes and the like
            file.seek(0)
        given, data = getattr(file, "name", None), file.read()  # an integer or None for some temporary files
        name = repr(given) if isinstance(given, str) else "from the open file"
    if not isinstance(data, bytes):
        raise TypeError(f"cannot read image {name}: open it in binary mode with open(path, 'rb')")
    try:
        return _array_values(read_dicom(data, name), name) if is_dicom(data) else _picture_values(data, name)
    except (ImportError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        problem = f"not a PNG, JPEG, TIFF or DICOM file, or damaged; it begins with {data[:8]!r}"
        raise ValueError(f"cannot read image {name}: {problem if data else 'empty file'}") from None
    except Exception as error:
        raise ValueError(f"cannot read image {name}: {error or type(error).__name__}") from error


def _picture_values(data: bytes, name: str) -> npt.NDArray[np.float32]:
    """Return the grey values (H, W) of a PNG, JPEG or TIFF file."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.verify()  # PNG checksums, which decoding does not verify
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        # Pillow detects this too, unless another package has set `ImageFile.LOAD_TRUNCATED_IMAGES`, as several do.
        if image.format == "JPEG" and _JPEG_END not in data[-_TAIL:]:
            raise ValueError("truncated JPEG (no end marker)")
        return _pillow_values(image, name)


def _pillow_values(image: Image.Image, name: str = "that was given") -> npt.NDArray[np.float32]:
    """Return the grey values (H, W) of a Pillow image, which is not modified."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a JPEG with its preview
        raise ValueError(f"{cast(Any, image).n_frames} pages, expected one; save the page you want as a separate file")
    tags = getattr(image, "tag_v2", {})  # of TIFF
    upright = ImageOps.exif_transpose(image)
    upright.info.pop("transparency", None)  # convert() would apply it
    if upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        sample = np.asarray(upright.resize((64, 64), Image.Resampling.NEAREST).convert("RGB"))
        if (np.ptp(sample, axis=-1) > _COLOURED).mean() > _LARGEST_COLOURED_PART:
            warnings.warn(f"image {name} is in colour; a radiograph is grey", stacklevel=5)
        grey = upright if upright.mode == "L" else upright.convert("L")  # which would copy
        return np.divide(np.asarray(grey), np.float32(255), dtype=np.float32)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    unsigned = upright.mode in ("I;16", "I;16B") or (upright.mode == "I" and not tags)  # TIFF: signed, or 32 bits
    if not unsigned:
        raise ValueError(
            f"pixels of mode {upright.mode!r} have an unsupported type or depth; save it as 8-bit or 16-bit grey"
        )
    values, white = np.asarray(upright).astype(np.float32), np.float32(2**bits - 1)
    if values.min() < 0 or values.max() > white:  # mode I holds 32 bits
        raise ValueError(f"values from {values.min():g} to {values.max():g} do not fit in {bits} bits")
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow inverts only 8-bit images
    return (white - values if inverted else values) / white


def _array_values(image: Any, name: str = "that was given") -> npt.NDArray[np.float32]:
    """Return the grey values (H, W) of an array or a tensor, scaled by the range of its dtype."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image  # numpy has no bfloat16
    values = np.asarray(image)
    if values.dtype == np.uint8 and values.ndim == 3 and values.shape[-1] in (3, 4) and values.shape[0] != 1:
        return _pillow_values(Image.fromarray(values), name)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"an image must have shape (H, W) or (1, H, W), one grey channel, got {values.shape}")
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return np.divide(values, np.float32(np.iinfo(values.dtype).max), dtype=np.float32)
    if values.dtype.kind not in "bf":
        raise TypeError(f"an image must be uint8, uint16 or floating-point, got {values.dtype}; convert it first")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise ValueError(f"an image must lie in [0, 1] before normalisation, got {low:g} to {high:g}; or pass uint8")
    return np.array(values, dtype=np.float32)  # a contiguous copy
