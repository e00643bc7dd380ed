"""Scores, targets and groups as NumPy arrays, with messages that say what was given and what was expected."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FloatArray", "IntArray", "as_floats", "check_inputs", "group_indices", "warn_undefined"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def as_floats(given: Any) -> FloatArray:
    """Return a tensor, array, data frame or nested list in float64, with NaN for missing values."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().double()  # NumPy has no bfloat16
    try:
        return np.require(given, np.float64, ["WRITEABLE", "ENSUREARRAY"])  # pandas gives views to read only
    except TypeError:  # of the NA of pandas
        cells = np.asarray(given, dtype=object)
        return np.where(np.vectorize(_is_missing, otypes=[bool])(cells), np.nan, cells).astype(np.float64)


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or the NA of pandas, which is neither true nor false."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def check_inputs(scores: Any, targets: Any, name: str = "scores") -> tuple[FloatArray, FloatArray]:
    """Scores and targets (N, K) in float64; `name` is what the message calls the scores."""
    frames = hasattr(scores, "columns") and hasattr(targets, "columns")
    given, expected = ([str(name) for name in frame.columns] if frames else [] for frame in (scores, targets))
    if given != expected and sorted(given) == sorted(expected):
        raise ValueError(f"{name} and targets have the same columns in another order, {given} and {expected}")
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


def group_indices(groups: Any, num_images: int) -> IntArray:
    """Number the groups from 0; the group of each image (N,)."""
    names = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else groups)
    if names.shape != (num_images,):
        raise ValueError(f"groups must name one group an image, shape ({num_images},), got {names.shape}")
    listed = groups.tolist() if hasattr(groups, "tolist") else groups  # before NumPy writes NaN as "nan"
    if missing := sum(map(_is_missing, listed)):
        raise ValueError(f"groups must not have missing values, got {missing} of {num_images}")
    return np.unique(names, return_inverse=True)[1]


def warn_undefined(result: FloatArray, what: str, reason: str) -> None:
    """Name the labels whose result is NaN, on behalf of the caller's caller."""
    undefined = np.flatnonzero(np.isnan(result)).tolist()
    if undefined:
        warnings.warn(f"{what} is undefined (NaN) for labels {undefined}: {reason}", stacklevel=3)
