"""Conversion of scores, targets and groups to NumPy arrays, with validation."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FloatArray", "IntArray", "as_floats", "check_groups", "check_inputs", "group_indices", "warn_undefined"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def as_floats(given: Any) -> FloatArray:
    """Convert a tensor, array, data frame or nested list to float64, with NaN for missing values."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().double()  # NumPy has no bfloat16
    if isinstance(given, np.ma.MaskedArray):
        given = np.ma.filled(given.astype(np.float64), np.nan)
    try:
        return np.require(given, np.float64, ["C", "W", "E"])  # for torch; pandas has read-only views
    except TypeError:  # raised for pandas.NA
        cells = np.asarray(given, dtype=object)
        return np.where(np.vectorize(_is_missing, otypes=[bool])(cells), np.nan, cells).astype(np.float64)


def _is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas.NA, which has no truth value."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def check_inputs(scores: Any, targets: Any, name: str = "scores") -> tuple[FloatArray, FloatArray]:
    """Return scores and targets (N, K) in float64; error messages call the scores `name`."""
    frames = hasattr(scores, "columns") and hasattr(targets, "columns")
    given, expected = ([str(name) for name in frame.columns] if frames else [] for frame in (scores, targets))
    if given != expected and any(column in expected and expected.index(column) != i for i, column in enumerate(given)):
        raise ValueError(f"{name} and targets must have their columns in the same order, got {given} and {expected}")
    values, labels = as_floats(scores), as_floats(targets)
    if values.shape != labels.shape:
        raise ValueError(f"{name} and targets must have the same shape, got {values.shape} and {labels.shape}")
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{name} and targets must be (N, K), or (N,) for one label, and not empty; got {values.shape}")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"{name} must be finite, got NaN or infinity in {count} of {values.size} values")
    allowed = (labels == 0) | (labels == 1) | np.isnan(labels)
    if not allowed.all():
        raise ValueError(f"targets must be 0, 1 or NaN (unknown), got {labels[~allowed][0]:g}")
    return values.reshape(len(values), -1), labels.reshape(len(labels), -1)


def check_groups(name: str, groups: Any, num_images: int) -> npt.NDArray[Any]:
    """Return the group of each image (N,); error messages call the groups `name`."""
    names = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else groups)
    if names.shape != (num_images,):
        raise ValueError(f"{name} must have one value per image, shape ({num_images},), got {names.shape}")
    listed = groups.tolist() if hasattr(groups, "tolist") else groups  # before NumPy turns NaN into "nan"
    if missing := sum(_is_missing(group) or group == "" for group in listed):
        raise ValueError(f"{name} must not have missing values, got {missing} of {num_images}")
    return names


def group_indices(groups: Any, num_images: int) -> IntArray:
    """Return the group index of each image (N,), counting from 0."""
    return np.unique(check_groups("groups", groups, num_images), return_inverse=True)[1]


def warn_undefined(result: FloatArray, what: str, reason: str) -> None:
    """Warn about labels whose result is NaN, at the caller's caller."""
    undefined = np.flatnonzero(np.isnan(result)).tolist()
    if undefined:
        warnings.warn(f"{what} is undefined (NaN) for labels {undefined}: {reason}", stacklevel=3)
