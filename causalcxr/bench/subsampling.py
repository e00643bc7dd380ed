"""Choosing images in which a confounder that they have by nature goes with a finding as often as is asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt

from causalcxr.bench._draws import CHOICE_STREAM, count_agreeing, round_share
from causalcxr.bench._inputs import check_binary, check_correlation, check_patient, whole_number
from causalcxr.data.synthetic import stream

__all__ = ["subsample"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

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
    (target and confounder present or absent): every r from 0 to 1 can be had with it, so that all settings of an
    experiment have as many images, positives and negatives. Within a cell

    - images are spread over the patients: each gives one image before any gives a second;
    - with `age`, every cell has the same share of each band of ten years, that of the overlap (in each band as many as
      the scarcest cell has), so that age tells neither target nor confounder. The default number is then twice that of
      the overlap;
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
        ValueError: A cell has too few images, with the largest n that would do; n is odd, or so small that no image of
            a label would have the rarer confounder; a column has another length or values that are not allowed.
        TypeError: Target or confounder are not numbers, or n is not a whole one.

    Example:
        >>> finding, ap = np.random.default_rng(0).integers(2, size=(2, 400))
        >>> chosen = subsample(finding, ap, 0.9, patient=np.arange(400) // 2, n=100)
        >>> int(finding[chosen].sum()), int(ap[chosen][finding[chosen] == 1].sum())
        (50, 45)
    """
    labels = check_binary("target", target).numpy()
    present = check_binary("confounder", confounder, len(labels)).numpy()
    correlation = check_correlation(correlation)
    people = check_patient(patient, len(labels))
    bands, band_of = np.unique(_age_bands(age, len(labels)), return_inverse=True)
    in_cell = np.array([(labels == y) & (present == c) for y, c in _CELLS])
    counts = np.array([np.bincount(band_of[cell], minlength=len(bands)) for cell in in_cell])
    overlap = counts.min(axis=0)
    _check_overlap(counts, overlap)
    if n is None:
        n = 2 * int(overlap.sum())
    elif whole_number("n", n, 2) % 2:
        raise ValueError(f"n must be even, for as many positives as negatives, got {n}")
    wanted = _wanted(n, correlation, overlap)
    if (wanted > counts).any():
        raise ValueError(_shortage(n, correlation, counts, overlap, None if age is None else bands))
    count_agreeing(n // 2, correlation, f"images of each label ({_smallest(counts)})")

    numbers = stream(whole_number("seed", seed, 0), CHOICE_STREAM).random(len(labels))
    chosen = []
    for cell, of_bands in zip(in_cell, wanted, strict=True):
        for band, count in enumerate(of_bands):
            chosen.append(_spread(np.flatnonzero(cell & (band_of == band)), people, numbers)[:count])
    return np.sort(np.concatenate(chosen))


def _age_bands(age: Any, length: int) -> FloatArray:
    """Age in whole bands (N,), all 0 where it is not known."""
    years = np.zeros(length) if age is None else np.asarray(age, dtype=np.float64)
    if years.shape != (length,):
        raise ValueError(f"age must be one number of years an image, shape ({length},), got {years.shape}")
    if not (np.isfinite(years) & (years >= 0)).all():
        raise ValueError("age must be years, 0 or more, got negative or missing values; leave out images without it")
    return np.floor(years / _BAND)


def _check_overlap(counts: IntArray, overlap: IntArray) -> None:
    """Raise `ValueError` where nothing can be chosen: no image of a cell, or no age band with images of all cells."""
    if not counts.sum(axis=1).all():
        raise ValueError(f"all four combinations of target and confounder must occur, but {_smallest(counts)}")
    if not overlap.any():
        raise ValueError("no age band of ten years has images of all four combinations of target and confounder")


def _wanted(n: int, correlation: float, overlap: IntArray) -> IntArray:
    """How many images to choose, (4, bands)."""
    agreeing = round_share(n // 2, correlation)
    sizes = (agreeing, agreeing, n // 2 - agreeing, n // 2 - agreeing)
    return np.array([_apportion(size, overlap / overlap.sum()) for size in sizes])


def _apportion(size: int, shares: FloatArray) -> IntArray:
    """Whole numbers with the given shares (bands,) and the given sum; the largest remainders are rounded up."""
    exact = size * shares
    whole = np.floor(exact + 1e-9).astype(np.int64)  # a product such as 30 * 0.1 may fall short of its integer
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: size - whole.sum()]] += 1
    return whole


def _spread(members: IntArray, people: npt.NDArray[Any], numbers: FloatArray) -> IntArray:
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


def _shortage(n: int, correlation: float, counts: IntArray, overlap: IntArray, bands: FloatArray | None) -> str:
    """Which cell has too few images, and how many would do."""
    wanted = _wanted(n, correlation, overlap)
    cell, band = np.unravel_index((wanted - counts).argmax(), counts.shape)
    y, c = _CELLS[cell]
    years = "" if bands is None else f" aged {_BAND * bands[band]:.0f} to {_BAND * (bands[band] + 1) - 1:.0f}"
    sizes = range(min(n, counts.sum() // 2 * 2), 0, -2)
    largest = next(size for size in sizes if (_wanted(size, correlation, overlap) <= counts).all())
    return (
        f"n={n} with correlation {correlation:g} needs {wanted[cell, band]} images with target={y} and "
        f"confounder={c}{years}, but there are {counts[cell, band]}; the largest n that would work is {largest}"
    )
