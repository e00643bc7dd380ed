"""The random streams that generated radiographs are drawn from, and how often findings occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from causalcxr.data.labels import label_positions


class Stream(IntEnum):
    """What a random stream is for.

    A stream belongs to a seed, a purpose, and an item or patient, so that a new kind of random number never changes
    those that exist.
    """

    FINDINGS = 0
    VIEW = 1
    MARKERS = 2
    PEOPLE = 3
    ANATOMY = 4
    FILM = 5
    PLANT = 6
    MARK = 7


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a seed, a purpose, and further numbers. The purposes 0 to 7 are taken, see `Stream`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=[int(number) for number in key]))


def check_prevalence(
    prevalence: float | Sequence[float] | Mapping[str, float], label_names: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Prevalence of each label, (K,) or one number."""
    if isinstance(prevalence, Mapping):
        label_positions(list(prevalence), label_names)
        prevalence = [prevalence.get(name, 0.0) for name in label_names]
    chance = np.asarray(prevalence, dtype=np.float64)
    if chance.shape not in ((), (len(label_names),)) or not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(
            f"prevalence must be in [0, 1], one number or one for each of the {len(label_names)} labels, "
            f"got {prevalence!r}"
        )
    return chance
