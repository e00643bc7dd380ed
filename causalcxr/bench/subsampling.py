"""Subsampling of images to a given association between a natural confounder and a finding."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from causalcxr.bench._association import CHOICE_STREAM, check_binary, count_agreeing
from causalcxr.data.synthetic import stream
from causalcxr.metrics._inputs import IntArray, check_groups

__all__ = ["subsample"]

_BAND = 10  # years
_CELLS = ((1, 1), (0, 0), (1, 0), (0, 1))  # (target, confounder): in the first two they agree


def subsample(
    target: Any, confounder: Any, correlation: float, *, patient: Any, age: Any = None, seed: int = 0
) -> IntArray:
    """Choose images so that a share r of the positives and 1 - r of the negatives have a natural confounder.

    Half of the chosen images are positive. The total is twice the size of the smallest of the four cells (target and
    confounder present or absent). It is the same for every r in [0, 1], so all settings of an experiment have equally
    many positives and negatives. Within a cell:

    - Images are spread over patients: each contributes one image before any contributes a second.
    - With `age`, all cells have the same distribution over ten-year bands, so that age predicts neither target nor
      confounder. In each band, the smallest cell sets the number of images; the total is twice the sum over bands.
    - The remaining choice is random, in an order that depends only on the seed: settings with the same seed share as
      many images as possible, except with `age`.

    Split the patients into training, validation and test first, and subsample each split.

    Args:
        target: Presence of the finding, 0 or 1.
        confounder: Presence of the confounder, e.g. the view, 0 or 1.
        correlation: The share r in [0, 1]; 0.5 means no association, and 1 - r reverses r.
        patient: Patient of each image, numbers or strings.
        age: Age in years.
        seed: Random seed.

    Shape:
        target and confounder: (N,) or (N, 1). patient and age: (N,).

    Returns:
        Indices of the chosen images (n,), in ascending order.

    Raises:
        ValueError: A cell is empty, or so small that no image of a label would have the rarer confounder. A column has
            the wrong length or invalid values.
        TypeError: Target or confounder are not numbers.

    Example:
        >>> finding, ap = np.random.default_rng(0).integers(2, size=(2, 400))
        >>> chosen = subsample(finding, ap, 0.9, patient=np.arange(400) // 2)
        >>> int(finding[chosen].sum()), int(ap[chosen][finding[chosen] == 1].sum())
        (86, 77)
    """
    labels = check_binary("target", target).numpy()
    present = check_binary("confounder", confounder, len(labels)).numpy()
    people = check_groups("patient", patient, len(labels))
    years = np.zeros(len(labels)) if age is None else np.asarray(age, dtype=np.float64)
    if years.shape != labels.shape:
        raise ValueError(f"age must have shape {labels.shape}, got {years.shape}")
    if unknown := int((~(years >= 0) | np.isinf(years)).sum()):
        raise ValueError(f"age must be years, but {unknown} of {len(years)} are missing or negative; leave them out")
    bands, band_of = np.unique(years // _BAND, return_inverse=True)
    in_cell = np.array([(labels == y) & (present == c) for y, c in _CELLS])
    counts = np.array([np.bincount(band_of[cell], minlength=len(bands)) for cell in in_cell])
    overlap = counts.min(axis=0)
    half = int(overlap.sum())
    if half == 0:
        where = "" if age is None else " in one band of ten years"
        numbers = ", ".join(f"{n} {cell}" for n, cell in zip(counts.sum(axis=1), _CELLS, strict=True))
        raise ValueError(f"all four cells (target, confounder) must occur{where}, got images: {numbers}")
    agreeing = count_agreeing(half, correlation, "images of each label")
    order = stream(seed, CHOICE_STREAM).random(len(labels))
    chosen = []
    for members, size in zip(in_cell, (agreeing, agreeing, half - agreeing, half - agreeing), strict=True):
        for band, count in enumerate(_apportion(size, overlap / half)):
            chosen.append(_spread(np.flatnonzero(members & (band_of == band)), people, order)[:count])
    return np.sort(np.concatenate(chosen))


def _apportion(size: int, shares: npt.NDArray[np.float64]) -> IntArray:
    """Split `size` into integers by `shares` (bands,); the largest remainders are rounded up."""
    exact = size * shares
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: size - whole.sum()]] += 1
    return whole


def _spread(members: IntArray, people: npt.NDArray[Any], order: npt.NDArray[np.float64]) -> IntArray:
    """Sort images randomly, with the first of every patient before the second of any."""
    drawn, images_of, turns = members[np.argsort(order[members])], Counter[Any](), []
    for person in people[drawn].tolist():
        turns.append(images_of[person])
        images_of[person] += 1
    return drawn[np.argsort(turns, kind="stable")]
