"""Columns that describe the images of a test, with messages that say what was given and what was expected."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["check_binary", "check_correlation", "check_index", "check_patient", "whole_number"]


def check_binary(name: str, values: Any, length: int | None = None) -> Tensor:
    """Zeros and ones (N,) as int64; given as (N,) or (N, 1), of any number type or bool."""
    given = values if isinstance(values, Tensor) else np.asarray(values)
    if not isinstance(given, Tensor) and given.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be zeros and ones, got {given.dtype} values; compare first, as in view == 'AP'")
    column = torch.as_tensor(given).detach().cpu()
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1 or length not in (None, len(column)):
        expected = "(N,) or (N, 1)" if length is None else f"({length},) or ({length}, 1)"
        raise ValueError(f"{name} must have shape {expected}, one value an image, got {tuple(given.shape)}")
    allowed = (column == 0) | (column == 1)
    if not bool(allowed.all()):
        raise ValueError(f"{name} must be 0 or 1, got {column[~allowed][0].item():g}; leave out images without it")
    return column.long()


def check_correlation(correlation: float) -> float:
    """A share of images, from 0 to 1."""
    if not 0 <= correlation <= 1:
        raise ValueError(
            "correlation must lie in [0, 1]: the share of positives with the confounder and of negatives without it, "
            f"0.5 for no association; got {correlation!r}"
        )
    return float(correlation)


def check_patient(patient: Any, length: int) -> npt.NDArray[Any]:
    """The patient of each image (N,)."""
    given = np.asarray(patient)
    if given.shape != (length,):
        raise ValueError(f"patient must name the patient of each image, shape ({length},), got {given.shape}")
    missing = sum(name is None or name != name for name in given.tolist())
    if missing:
        raise ValueError(f"patient must not have missing values, got {missing} of {length}")
    return given


def check_index(index: int, length: int) -> int:
    """The number of an image from 0, given from either end."""
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} images")
    return index % length


def whole_number(name: str, value: int, minimum: int) -> int:
    """Check an integer argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number
