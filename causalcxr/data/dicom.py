"""DICOM radiographs as grey pictures.

The grey-scale pipeline of the standard (DICOM PS3.3, C.11): stored values, modality LUT or rescale, VOI LUT or window,
then the inversion of MONOCHROME1. pydicom parses the file and decodes the pixels. The look-up is done here, since
`pydicom.pixels.apply_voi_lut` wraps around where an 8-bit table has more than 256 entries, and shows a file with a
negative rescale slope inverted.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_dicom", "is_dicom"]

FloatArray = npt.NDArray[np.float64]

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom returns all of these as RGB
_NO_RADIOGRAPHS = ("CT", "MR", "NM", "PT", "US")


def is_dicom(data: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or more) is DICOM."""
    return data[128:132] == b"DICM"


def decode_dicom(data: bytes) -> npt.NDArray[np.float32]:
    """Decode a DICOM radiograph of one frame.

    Grey values go through the modality LUT or rescale, then through the first VOI LUT, or else the first window;
    without either, the range of the declared bits becomes [0, 1]. MONOCHROME1, where low values are bright, is
    inverted. Colour is reduced to luminance.

    Args:
        data: Content of the file.

    Shape:
        (H, W), float32 in [0, 1].

    Returns:
        The picture as a screen would show it, black 0 and white 1.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: The file is damaged, has no image or several frames, is no radiograph (CT, MR, ...), has a
            photometric interpretation other than grey or RGB, an impossible window or table, or a compression that no
            installed package decodes.
    """
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install 'causalcxr[dicom]'") from error
    try:
        return _picture(dcmread(io.BytesIO(data))).astype(np.float32)
    except ValueError:
        raise
    except Exception as error:  # whatever damaged bytes lead to; pydicom parses an element when it is asked for
        raise ValueError(f"damaged DICOM ({error})") from error


def _picture(dataset: Any) -> FloatArray:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if dataset.get("Modality") in _NO_RADIOGRAPHS:
        raise ValueError(f"modality {dataset.Modality}, expected a radiograph (CR, DX)")
    if "PixelData" not in dataset:
        raise ValueError("DICOM without an image (no PixelData)")
    if frames != 1:
        raise ValueError(f"{frames} frames, expected one; save the frame that you want as a file of its own")
    stored, kind = _stored_values(dataset), dataset.PhotometricInterpretation
    if kind in _COLOUR:
        return stored @ np.array(_LUMINANCE) / (2**dataset.BitsStored - 1)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {kind}; save it as MONOCHROME2 or RGB")
    shown = _shown_values(stored, dataset)
    if not np.isfinite(shown).all():
        raise ValueError("a rescale or window that is not a finite number")
    return 1 - shown if kind == "MONOCHROME1" else shown


def _stored_values(dataset: Any) -> npt.NDArray[Any]:
    """The pixels, (H, W) or (H, W, 3), decompressed, signed where the file says so, colour as RGB."""
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset)
    except Exception as error:  # of pydicom and its decoders
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            reason = f"{reason.rstrip('.:')}; pip install 'pylibjpeg[all]' or python-gdcm adds decoders"
        raise ValueError(f"the pixels cannot be decoded: {reason}") from error


def _shown_values(stored: npt.NDArray[Any], dataset: Any) -> FloatArray:
    """What is shown of the stored values, in [0, 1]: the modality transform, then the VOI transform."""
    lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    ends = np.array([lowest, lowest + 2**dataset.BitsStored - 1], dtype=np.float64)
    values = stored.astype(np.float64)
    if dataset.get("ModalityLUTSequence"):
        values, white = _look_up(values, dataset.ModalityLUTSequence[0], dataset)
        ends = np.array([0.0, white])
    else:
        slope, intercept = (dataset.get(f"Rescale{name}") for name in ("Slope", "Intercept"))
        slope, intercept = 1.0 if slope is None else float(slope), float(intercept or 0)
        if slope == 0:
            raise ValueError("rescale slope of 0, which makes every pixel equal")
        values, ends = values * slope + intercept, ends * slope + intercept
    if dataset.get("VOILUTSequence"):
        values, white = _look_up(values, dataset.VOILUTSequence[0], dataset)
        return values / white
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        return _window(values, _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
    return (values - ends.min()) / np.ptp(ends)


def _window(values: FloatArray, center: float, width: float, function: str) -> FloatArray:
    """The VOI LUT function of PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"window of width {width:g}")
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-9)
    if function in ("LINEAR", "LINEAR_EXACT"):
        return ((values - center) / width + 0.5).clip(0, 1)
    if function == "SIGMOID":
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)  # 1 / (1 + exp(-4 (x - c) / w)), without overflow
    raise ValueError(f"VOI LUT function {function}, expected LINEAR, LINEAR_EXACT or SIGMOID")


def _look_up(values: FloatArray, item: Any, dataset: Any) -> tuple[FloatArray, int]:
    """Map values through a look-up table; values beside it take its first or last entry. Also return its white."""
    if "LUTDescriptor" not in item or "LUTData" not in item:
        raise ValueError("look-up table without LUTDescriptor or LUTData")
    entries, first, bits = item.LUTDescriptor
    entries, white = entries or 2**16, 2**bits - 1
    raw, order = item.LUTData, "<"
    if isinstance(raw, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
    else:
        raw = np.atleast_1d(np.asarray(raw, dtype="<u2")).tobytes()
    packed = bits <= 8 and len(raw) - entries in (0, 1)  # one byte an entry; others write two
    table = np.frombuffer(raw, dtype="u1" if packed else f"{order}u2")[:entries]
    if len(table) < entries or table.max() > white:
        raise ValueError(
            f"look-up table of {len(table)} entries up to {table.max(initial=0)}, where {entries} of {bits} bits are "
            "declared"
        )
    return table[np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)].astype(np.float64), white


def _first(value: Any) -> float:
    """The first of several alternative windows."""
    return float(np.atleast_1d(value)[0])
