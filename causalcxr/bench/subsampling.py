"""Choosing images in which a confounder that they have by nature goes with a finding as often as is asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt

from causalcxr.bench._association import (
    CHOICE_STREAM,
    check_binary,
    check_patient,
    count_agreeing,
)
from causalcxr.data.synthetic import stream

__all__ = ["subsample"]

IntArray = npt.NDArray[np.int64]

_BAND = 10  # years
_CELLS = ((1, 1), (0, 0), (1, 0), (0, 1))  # (target, confounder): in the first two they agree


def subsample(
    target: Any,
    confounder: Any,
    correlation: float,
    *,
    patient: Any,
    age: Any = None,
    n: int | None = None,
    seed: int = 0,
) -> IntArray:
    """Choose images so that a natural confounder is on a share r of the positives and on 1 - r of the negatives.

    Half of the chosen images are positive. Their number is by default twice that of the smallest of the four cells
    (target and confounder present or absent). Every r from 0 to 1 can be had with it, so that all settings of an
    experiment have as many images, positives and negatives. Within a cell

    - images are spread over the patients: each gives one image before any gives a second;
    - with `age`, every cell has the same share of each band of ten years, so that age tells neither target nor
      confounder. The shares are those of the overlap: in each band as many as the scarcest cell has. The default number
      is then twice that of the overlap;
    - the rest is drawn, in an order that depends on the seed alone: settings of one seed share what images they can.

    The number of patients follows from this, and differs somewhat between settings. Split the patients into those for
    training, validation and test first, and choose within each part: this function knows of no split.

    Args:
        target: Whether the finding is there, zeros and ones.
        confounder: Whether the confounder, such as the view, is there, zeros and ones.
        correlation: The share r in [0, 1]; 0.5 is no association, 1 - r the reverse of r.
        patient: Patient of each image, numbers or strings.
        age: Years.
        n: Number of images to choose, even. The default suits every correlation; a larger number may suit this one.
        seed: Number of the choice.

    Shape:
        target and confounder: (N,) or (N, 1). patient and age: (N,).

    Returns:
        Indices of the chosen images (n,), in ascending order.

    Raises:
        ValueError: A cell has too few images; n is odd, or so small that no image of a label would have the rarer
            confounder; a column has another length or values that are not allowed.
        TypeError: Target or confounder are not numbers.

    Example:
        >>> finding, ap = np.random.default_rng(0).integers(2, size=(2, 400))
        >>> chosen = subsample(finding, ap, 0.9, patient=np.arange(400) // 2, n=100)
        >>> int(finding[chosen].sum()), int(ap[chosen][finding[chosen] == 1].sum())
        (50, 45)
    """
    labels = check_binary("target", target).numpy()
    present = check_binary("confounder", confounder, len(labels)).numpy()
    people = check_patient(patient, len(labels))
    years = np.zeros(len(labels)) if age is None else np.asarray(age, dtype=np.float64)
    if years.shape != labels.shape or not (np.isfinite(years) & (years >= 0)).all():
        raise ValueError(f"age must be years, 0 or more and none missing, shape {labels.shape}, got {years.shape}")
    bands, band_of = np.unique(years // _BAND, return_inverse=True)
    in_cell = np.array([(labels == y) & (present == c) for y, c in _CELLS])
    counts = np.array([np.bincount(band_of[cell], minlength=len(bands)) for cell in in_cell])
    overlap = counts.min(axis=0)
    if not overlap.any():
        where = " in one age band" if counts.sum(axis=1).all() else ""
        raise ValueError(f"all four combinations of target and confounder must occur{where}, but {_smallest(counts)}")
    n = 2 * int(overlap.sum()) if n is None else n
    if n < 2 or n % 2:
        raise ValueError(f"n must be even and at least 2, for as many positives as negatives, got {n}")
    agreeing = count_agreeing(n // 2, correlation, f"images of each label ({_smallest(counts)})")
    sizes = (agreeing, agreeing, n // 2 - agreeing, n // 2 - agreeing)
    wanted = np.array([_apportion(size, overlap / overlap.sum()) for size in sizes])
    if (wanted > counts).any():
        cell, band = np.unravel_index((wanted - counts).argmax(), counts.shape)
        of_age = "" if age is None else f" aged {_BAND * bands[band]:.0f} to {_BAND * (bands[band] + 1) - 1:.0f}"
        raise ValueError(
            f"n={n} with correlation {correlation:g} needs {wanted[cell, band]} images with target={_CELLS[cell][0]} "
            f"and confounder={_CELLS[cell][1]}{of_age}, but there are {counts[cell, band]}; "
            f"n={2 * overlap.sum()} works for every correlation"
        )
    numbers = stream(seed, CHOICE_STREAM).random(len(labels))
    chosen = []
    for members, of_bands in zip(in_cell, wanted, strict=True):
        for band, count in enumerate(of_bands):
            chosen.append(_spread(np.flatnonzero(members & (band_of == band)), people, numbers)[:count])
    return np.sort(np.concatenate(chosen))


def _apportion(size: int, shares: npt.NDArray[np.float64]) -> IntArray:
    """Whole numbers with the given shares (bands,) and the given sum; the largest remainders are rounded up."""
    exact = size * shares
    whole = np.floor(exact + 1e-9).astype(np.int64)  # a product such as 30 * 0.1 may fall short of its integer
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: size - whole.sum()]] += 1
    return whole


def _spread(members: IntArray, people: npt.NDArray[Any], numbers: npt.NDArray[np.float64]) -> IntArray:
    """Images in drawn order, the first of every patient before the second of any."""
    drawn = members[np.argsort(numbers[members])]
    by_patient = np.argsort(people[drawn], kind="stable")
    _, first, of_patient = np.unique(people[drawn][by_patient], return_index=True, return_inverse=True)
    turn = np.empty(len(drawn), dtype=np.int64)
    turn[by_patient] = np.arange(len(drawn)) - first[of_patient]
    return drawn[np.argsort(turn, kind="stable")]


def _smallest(counts: IntArray) -> str:
    sizes = counts.sum(axis=1)
    y, c = _CELLS[int(sizes.argmin())]
    return f"target={y} with confounder={c} is the smallest combination, with {sizes.min()} images"
