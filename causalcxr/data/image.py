"""Radiograph files as one-channel tensors in [0, 1]."""

from __future__ import annotations

import contextlib
import io
import operator
import os
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from causalcxr.data.dicom import decode_dicom, is_dicom

__all__ = ["as_height_width", "inspect_image_file", "read_image", "resize_image"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_TIFF = (b"II*\x00", b"MM\x00*")
_FORMATS = ("PNG", "JPEG", "TIFF")
_HEAD = 132  # DICOM says what it is behind 128 bytes of anything
_TAIL = 1024  # some writers pad behind the end marker; a marker within this distance of the end counts

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I")

# Everything that Pillow's readers raise on damaged bytes.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(path: str | os.PathLike[str] | IO[bytes], *, size: int | tuple[int, int] | None = None) -> torch.Tensor:
    """Read a radiograph as one grey channel, whatever the file stores.

    Grey, RGB, palette, 1-bit and 16-bit files of one radiograph give the same tensor: 8-bit values are divided by 255,
    16-bit values by 65535. Alpha is not a channel of the radiograph: it is dropped, not composited. Colour is reduced
    to luminance, which leaves equal channels as they are. Pillow holds only the upper 8 bits of 16-bit colour and of
    16-bit grey with alpha.

    A damaged PNG is an error, never a picture with a grey lower half: its checksums are verified before decoding. JPEG,
    TIFF and DICOM hold no checksums; there, what the decoder notices is an error.

    DICOM needs the extra ``causalcxr[dicom]``. The picture is what a screen would show: after the modality and VOI
    look-up tables or the window that the file holds, and with MONOCHROME1 inverted; without either, the range of the
    bits that it declares becomes [0, 1]. A file of several frames, or of a modality such as CT, is an error.

    Args:
        path: PNG, JPEG, TIFF or DICOM file, or one that is open in binary mode: anything with ``read()``. An open file
            is read from its start where it can seek, else from where it is, to its end; it stays open.
        size: Side, or (height, width), to resize to with `resize_image`. ``None`` keeps the stored size.

    Shape:
        (1, H, W), float32 in [0, 1].

    Returns:
        The image.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The file is DICOM and pydicom is not installed.
        ValueError: The file is empty, truncated, damaged or of another format; or ``size`` is not positive.
        TypeError: ``size`` is neither an integer nor two of them, or ``path`` neither a path nor an open binary file.

    Example:
        >>> import os, tempfile
        >>> from PIL import Image
        >>> path = os.path.join(tempfile.mkdtemp(), "white.png")
        >>> Image.new("RGBA", (6, 4), (255, 255, 255, 0)).save(path)
        >>> read_image(path).shape, read_image(path).min().item()
        (torch.Size([1, 4, 6]), 1.0)
        >>> read_image(path, size=8).shape
        torch.Size([1, 8, 8])
    """
    height_width = None if size is None else as_height_width(size)
    data, name = _read_bytes(path)
    problem = _structure_problem(data[:_HEAD], data[-_TAIL:]) or _png_problem(data)
    if problem is not None:
        raise ValueError(f"cannot read image {name}: {problem}")
    try:
        grey = torch.from_numpy(decode_dicom(data) if is_dicom(data) else _decode(data)).unsqueeze(0)
    except ImportError as error:
        raise ImportError(f"cannot read image {name}: {error}") from error
    except UnidentifiedImageError:
        raise ValueError(f"cannot read image {name}: damaged header") from None
    except _DECODE_ERRORS as error:
        raise ValueError(f"cannot read image {name}: {error}") from error
    return grey if height_width is None else resize_image(grey, height_width)


def resize_image(image: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Resize a grey image as `read_image` does: bilinear, antialiased, in float32.

    Antialiased means that the support is widened to the scale. ``resize_image(read_image(path), size)`` and
    ``read_image(path, size=size)`` are equal, bit by bit.

    Args:
        image: A grey image with values in [0, 1].
        size: Side, or (height, width).

    Shape:
        image: (1, H, W). Result: (1, height, width), float32 on the CPU.

    Raises:
        ValueError: ``size`` is not positive.
        TypeError: ``size`` is neither an integer nor two of them.

    Example:
        >>> resize_image(torch.rand(1, 6, 4), 8).shape
        torch.Size([1, 8, 8])
    """
    height_width = as_height_width(size)
    image = image.detach().float().cpu()
    if image.shape[1:] == height_width:
        return image
    # In float, so that 8-bit and 16-bit files of one radiograph stay equal; it takes no longer than in 8 bits.
    resized = Image.fromarray(image[0].numpy()).resize(height_width[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).clamp(0, 1).unsqueeze(0)  # weights sum to 1 up to rounding


def inspect_image_file(path: str | os.PathLike[str]) -> str | None:
    """Look at the first and last bytes of an image file for damage, without decoding it.

    Finds what interrupted downloads and full disks leave behind: empty files, other content (an HTML error page), PNG
    files without the closing IEND chunk, JPEG files without the end marker. Damage in the middle is found by
    `read_image`.

    Args:
        path: File to look at.

    Returns:
        What is wrong, or ``None``.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "empty.png")
        >>> open(path, "wb").close()
        >>> inspect_image_file(path)
        'empty file'
    """
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return _structure_problem(head, file.read(_TAIL))
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _read_bytes(path: str | os.PathLike[str] | IO[bytes]) -> tuple[bytes, str]:
    """Return the content, and what to call the file in messages."""
    if isinstance(path, (str, os.PathLike)):
        try:
            return Path(path).read_bytes(), repr(os.fspath(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"no image file {os.fspath(path)!r}") from None
    if isinstance(path, io.TextIOBase) or not hasattr(path, "read"):
        raise TypeError(f"expected a path or a file open in binary mode (open(..., 'rb')), got {path!r}")
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # pipes and the like
        path.seek(0)
    name = getattr(path, "name", None)  # a number or None for some temporary files
    return path.read(), repr(name) if isinstance(name, str) else "from the open file"


def _structure_problem(head: bytes, tail: bytes) -> str | None:
    if not head:
        return "empty file"
    if is_dicom(head):
        return None
    if head.startswith(_PNG):
        return None if _PNG_END in tail else "truncated PNG (no closing IEND chunk)"
    if head.startswith(_JPEG):
        return None if _JPEG_END in tail else "truncated JPEG (no end marker)"
    if head.startswith(_TIFF):
        return None
    return f"not a PNG, JPEG or TIFF file, nor DICOM (begins with {head[:8]!r})"


def _png_problem(data: bytes) -> str | None:
    """Verify the checksum of every critical chunk.

    Pillow does so too, but not when some other module has set `ImageFile.LOAD_TRUNCATED_IMAGES`, as several do.
    """
    if not data.startswith(_PNG):
        return None
    view, start = memoryview(data), len(_PNG)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        kind = data[start + 4 : start + 8]
        if end + 4 > len(data):
            break
        critical = not kind[0] & 0x20  # upper-case first letter
        if critical and zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return f"damaged PNG (checksum of the {kind!r} chunk at byte {start} does not match)"
        if kind == b"IEND":
            return None
        start = end + 4
    return f"damaged PNG (chunk at byte {start} runs past the end of the file)"


def _decode(data: bytes) -> npt.NDArray[np.float32]:
    """Decode a PNG, JPEG or TIFF file to grey values (H, W) in [0, 1]."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.load()
        image.info.pop("transparency", None)  # else convert() would act on it
        if image.mode in _EIGHT_BIT_MODES:
            grey, white = image if image.mode == "L" else image.convert("L"), 255
        elif image.mode in _SIXTEEN_BIT_MODES:
            grey, white = image.convert("F"), 65535
            low, high = cast("tuple[float, float]", grey.getextrema())
            if low < 0 or high > white:  # mode I holds 32 bits
                raise ValueError(f"values from {low:g} to {high:g} do not fit in 16 bits")
        else:
            raise ValueError(f"pixels of mode {image.mode!r}; save it as 8-bit or 16-bit grey")
        return np.divide(np.asarray(grey), np.float32(white), dtype=np.float32)


def as_height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size that is a side or both; raise unless they are whole and positive."""
    try:
        height, width = (size, size) if not isinstance(size, (tuple, list)) else size
        height, width = operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise TypeError(f"size must be an integer or (height, width), got {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel each way, got {size!r}")
    return height, width
