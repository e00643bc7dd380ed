"""Sampling of findings, view and markers for synthetic radiographs, apart from their drawing."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from causalcxr.data._markers import MARKERS
from causalcxr.data.labels import NIH_LABELS, label_positions

_AP_SHARE = 0.4  # as in ChestX-ray14
_PORTABLE_SHARE = 0.6  # of the AP films
_MARKER_SHARES = {"letter": 0.85, "tube": 0.25, "electrodes": 0.2, "border": 0.2}

# A random stream belongs to a seed, a purpose, and an item or patient, so that a new kind of random number never
# changes those that exist.
FINDINGS_STREAM, VIEW_STREAM, MARKERS_STREAM, PEOPLE_STREAM, ANATOMY_STREAM, FILM_STREAM, PLANT_STREAM, MARK_STREAM = (
    range(8)
)


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a seed, a purpose, and further numbers."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class Studies(NamedTuple):
    """What is shown on each of N films."""

    findings: npt.NDArray[np.bool_]
    """(N, 14), in the order of `NIH_LABELS`."""
    view: npt.NDArray[np.str_]
    """(N,) "AP" or "PA"."""
    markers: npt.NDArray[np.bool_]
    """(N, M), in the order of `MARKERS`."""
    patient: npt.NDArray[np.int64]
    """(N,) patient numbers."""
    sex: npt.NDArray[np.str_]
    """(N,) "M" or "F"."""
    age: npt.NDArray[np.float64]
    """(N,) years."""


def sample_studies(
    length: int,
    *,
    prevalence: npt.NDArray[np.float64],
    marker_code: int | None,
    marker_correlation: float,
    images_per_patient: int,
    seed: int,
) -> Studies:
    """Sample N films; row i never depends on ``length``, since each stream is filled row by row.

    Args:
        length: Number of films.
        prevalence: (14,) probability of each finding.
        marker_code: Position in `NIH_LABELS` of the finding that the stamp accompanies, if any.
        marker_correlation: Strength of that association, in [-1, 1].
        images_per_patient: Consecutive films of one patient.
        seed: Number of the data set.

    Returns:
        Findings, view, markers and patient of each film.
    """
    findings = stream(seed, FINDINGS_STREAM).random((length, len(NIH_LABELS))) < prevalence
    ap = stream(seed, VIEW_STREAM).random(length) < _AP_SHARE
    share = np.empty((length, len(MARKERS)))
    for column, name in enumerate(MARKERS):
        if name != "portable":
            share[:, column] = _MARKER_SHARES[name]
        elif marker_code is None:
            share[:, column] = np.where(ap, _PORTABLE_SHARE, 0.0)
        else:
            share[:, column] = 0.5 + 0.5 * marker_correlation * np.where(findings[:, marker_code], 1.0, -1.0)
    markers = stream(seed, MARKERS_STREAM).random((length, len(MARKERS))) < share
    patient = np.arange(length, dtype=np.int64) // images_per_patient
    people = stream(seed, PEOPLE_STREAM).random((int(patient[-1]) + 1, 2))[patient]
    return Studies(
        findings=findings,
        view=np.where(ap, "AP", "PA"),
        markers=markers,
        patient=patient,
        sex=np.where(people[:, 0] < 0.45, "F", "M"),
        age=np.floor(18.0 + 70.0 * people[:, 1]),
    )


def check_prevalence(
    prevalence: float | Sequence[float] | Mapping[str, float], label_names: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Prevalence of each label (K,)."""
    if isinstance(prevalence, Mapping):
        label_positions(list(prevalence), label_names)
        prevalence = [prevalence.get(name, 0.0) for name in label_names]
    chance = np.asarray(prevalence, dtype=np.float64)
    if chance.ndim > 1 or (chance.ndim == 1 and len(chance) != len(label_names)):
        raise ValueError(
            f"prevalence must be one number or one for each of the {len(label_names)} labels, got {prevalence!r}"
        )
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(f"prevalence must be in [0, 1], got {prevalence!r}")
    return np.broadcast_to(chance, len(label_names))


def whole_number(name: str, value: int, minimum: int) -> int:
    """Check an integer argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number
