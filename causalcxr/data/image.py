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
import torch
from PIL import Image, UnidentifiedImageError

__all__ = ["inspect_image_file", "read_image"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_TIFF = (b"II*\x00", b"MM\x00*")
_FORMATS = ("PNG", "JPEG", "TIFF")
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

    A damaged PNG is an error, never a picture with a grey lower half: its checksums are verified before decoding. JPEG
    and TIFF hold no checksums; there, what the decoder notices is an error.

    Args:
        path: PNG, JPEG or TIFF file, or one that is open in binary mode: anything with ``read()``. An open file is read
            from its start where it can seek, else from where it is, to its end; it stays open.
        size: Side, or (height, width), to resize to; bilinear with the support widened to the scale
            (antialiased), in float32. ``None`` keeps the stored size.

    Shape:
        (1, H, W), float32 in [0, 1].

    Returns:
        The image.

    Raises:
        FileNotFoundError: There is no such file.
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
    height_width = None if size is None else _height_width(size)
    data, name = _read_bytes(path)
    problem = _structure_problem(data[:8], data[-_TAIL:]) or _png_problem(data)
    if problem is not None:
        raise ValueError(f"cannot read image {name}: {problem}")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _to_tensor(image, height_width)
    except UnidentifiedImageError:
        raise ValueError(f"cannot read image {name}: damaged header") from None
    except _DECODE_ERRORS as error:
        raise ValueError(f"cannot read image {name}: {error}") from error


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
            head = file.read(8)
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
    if head.startswith(_PNG):
        return None if _PNG_END in tail else "truncated PNG (no closing IEND chunk)"
    if head.startswith(_JPEG):
        return None if _JPEG_END in tail else "truncated JPEG (no end marker)"
    if head.startswith(_TIFF):
        return None
    return f"not a PNG, JPEG or TIFF file (begins with {head!r})"


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


def _to_tensor(image: Image.Image, height_width: tuple[int, int] | None) -> torch.Tensor:
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
    if height_width is not None and height_width != (grey.height, grey.width):
        # In float, so that 8-bit and 16-bit files of one radiograph stay equal; it takes no longer than in 8 bits.
        grey = grey.convert("F").resize(height_width[::-1], Image.Resampling.BILINEAR)
    values = np.divide(np.asarray(grey), np.float32(white), dtype=np.float32)
    return torch.from_numpy(values).unsqueeze(0)


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (size, size) if not isinstance(size, (tuple, list)) else size
        height, width = operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise TypeError(f"size must be an integer or (height, width), got {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel each way, got {size!r}")
    return height, width
