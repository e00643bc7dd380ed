"""Read DICOM radiographs as displayed: modality transform, then VOI transform (PS3.3, C.11)."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["is_dicom", "read_dicom"]

_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom returns all of these as RGB
_NO_RADIOGRAPHS = ("CT", "MG", "MR", "NM", "PT", "US")
_FRONTAL_CHEST = {
    "BodyPartExamined": ("CHEST", "THORAX", "TORAX", "LUNG", "UNKNOWN"),
    "ViewPosition": ("AP", "PA", "ANTERO", "POSTERO", "FRONTAL"),
}


def is_dicom(data: bytes) -> bool:
    """Return whether `data`, at least the first 132 bytes of a file, is DICOM."""
    return data[128:132] == b"DICM"


def read_dicom(data: bytes, name: str) -> npt.NDArray[Any]:
    """Return the grey values (H, W) in [0, 1] of a DICOM file, or uint8 RGB (H, W, 3); warnings mention `name`."""
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install pydicom") from error
    dataset = dcmread(io.BytesIO(data))
    if dataset.get("Modality") in _NO_RADIOGRAPHS:
        raise ValueError(f"modality {dataset.Modality}, expected a chest radiograph (CR, DX)")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise ValueError(f"{frames} frames, expected one; save the frame you want as a separate file")
    if dataset.get("HighBit") not in (None, dataset.BitsStored - 1):
        raise ValueError(f"high bit {dataset.HighBit} of {dataset.BitsStored} bits, expected {dataset.BitsStored - 1}")
    if dataset.get("PresentationIntentType") == "FOR PROCESSING":
        warnings.warn(f"image {name} is FOR PROCESSING: raw pixels, not processed for display", stacklevel=4)
    for field, words in _FRONTAL_CHEST.items():
        if (given := str(dataset.get(field) or "")) and not any(word in given.upper() for word in words):
            warnings.warn(f"image {name} has {field} {given}, expected {' or '.join(words[:2])}", stacklevel=4)
    stored, kind = dataset.pixel_array, dataset.PhotometricInterpretation
    if kind in _COLOUR:
        return stored
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {kind}; save it as MONOCHROME2 or RGB")
    values = np.unique(stored)  # usually at most 65536; computing on all pixels would take half a gigabyte
    padding = _is_padding(values, dataset)
    with np.errstate(all="ignore"):  # non-finite values raise below
        shown = _shown_values(values.astype(np.float64), dataset, padding).astype(np.float32)
    shown[padding] = kind == "MONOCHROME1"  # black in the result
    if not (shown.min() >= 0 and shown.max() <= 1):  # written so that NaN fails
        span = f"{shown.min():g} to {shown.max():g}"
        raise ValueError(f"its rescale, window or look-up table gives {span}, expected grey values from 0 to 1")
    shown = 1 - shown if kind == "MONOCHROME1" else shown
    if stored.itemsize > 2:
        return shown[np.searchsorted(values, stored)]
    table = np.empty(2**16, dtype=np.float32)
    table[values] = shown  # negative values index from the end
    return table[stored]


def _is_padding(stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[np.bool_]:
    """Return a mask of the stored values that are padding, not image (PS3.3, C.7.5.1.1.2)."""
    ends = [dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")]
    ends = [ends[0] if end is None else end for end in ends]  # without a limit, a single value
    if ends[0] is None:
        return np.zeros(stored.shape, dtype=bool)
    # Some writers store a signed value as unsigned, or vice versa.
    low, high = np.sort(np.array(ends, dtype=np.int64).astype(np.int16 if dataset.PixelRepresentation else np.uint16))
    return (low <= stored) & (stored <= high)


def _shown_values(
    stored: npt.NDArray[np.float64], dataset: Any, padding: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the displayed values, in [0, 1], of stored values."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    for name in ("WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept"):
        if name in dataset and dataset[name].is_empty:
            del dataset[name]  # treat an empty element as absent
    dataset.RescaleSlope = dataset.get("RescaleSlope", 1)  # pydicom ignores one without the other
    dataset.RescaleIntercept = dataset.get("RescaleIntercept", 0)

    def look_up(values: Any, sequence: str, apply: Any) -> tuple[Any, int]:
        item = dataset[sequence][0]
        entries, first, bits = item.LUTDescriptor
        # pydicom casts indices to the type of the entries, where they would wrap around.
        item.LUTDescriptor = [entries, first, 16]
        indices = np.rint(values).clip(first, first + (entries or 2**16) - 1).astype(np.int32)
        return apply(indices, dataset), 2**bits - 1

    lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    ends = np.array([lowest, lowest + 2**dataset.BitsStored - 1])
    if dataset.get("ModalityLUTSequence"):
        values, ends[:] = look_up(stored, "ModalityLUTSequence", apply_modality_lut)
        ends[0] = 0
    else:
        values, ends = (apply_modality_lut(each, dataset) for each in (stored, ends))
    if dataset.get("VOILUTSequence"):
        values, white = look_up(values, "VOILUTSequence", apply_voi)
        return values / white
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        black, white = apply_windowing(np.array([-np.inf, np.inf]), dataset)
        return ((apply_windowing(values, dataset) - black) / (white - black)).clip(0, 1)
    seen = values[~padding]
    if seen.size and 0 < np.ptp(seen) < np.ptp(ends) / 2:
        ends = seen
    return (values - ends.min()) / np.ptp(ends)
