"""Checks of binary columns, random stream ids, and counts that follow a given association exactly."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Stream ids that `SyntheticCXR` does not use, so that its images may have the same seed.
ORDER_STREAM, APPEARANCE_STREAM, CHOICE_STREAM = range(100, 103)


def check_binary(name: str, values: Any, length: int | None = None) -> Tensor:
    """Return zeros and ones (N,) as int64, from (N,) or (N, 1) of any numeric dtype or bool."""
    given = values if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(given, np.ndarray) and given.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be zeros and ones, got {given.dtype} values; compare first, as in view == 'AP'")
    given = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(given.copy())
    column = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    if column.ndim != 1 or length not in (None, len(column)):
        expected = "(N,)" if length is None else f"({length},)"
        raise ValueError(f"{name} must have shape {expected}, one value per image, got {tuple(given.shape)}")
    allowed = (column == 0) | (column == 1)
    if not bool(allowed.all()):
        raise ValueError(f"{name} must be 0 or 1, got {column[~allowed][0].item():g}; leave out such images")
    return column.long()


def count_agreeing(n: int, correlation: float, what: str) -> int:
    """Return how many of n images have the confounder that matches their label; halves are rounded up."""
    if not 0 <= correlation <= 1:
        raise ValueError(
            "correlation must lie in [0, 1]: the share of positives with the confounder and of negatives without it, "
            f"0.5 for no association; got {correlation!r}"
        )
    count = math.floor(correlation * n + 0.5)
    if 0 < correlation < 1 and not 0 < count < n:
        raise ValueError(f"correlation {correlation:g} needs more than {n} {what}: it would round to {count} of {n}")
    return count
