"""The fourteen findings of NIH ChestX-ray14, and label name checks."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ["NIH_LABELS", "check_label_names", "checked_names", "label_positions"]

NIH_LABELS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""Labels in the order of the NIH release. `No Finding` is the absence of all fourteen, not a label."""


def check_label_names(given: Sequence[str], expected: Sequence[str]) -> None:
    """Raise unless label names match the expected ones in number, spelling and order.

    Scores and targets are matched by position, so the same names in another order would silently compare one finding
    with another.

    Args:
        given: Names stored with the data or the weights.
        expected: Names in the order of the targets or the logits.

    Raises:
        ValueError: The lists differ.

    Example:
        >>> check_label_names(["Mass", "Nodule"], ("Mass", "Nodule"))
        >>> check_label_names(["Nodule", "Mass"], ("Mass", "Nodule"))
        Traceback (most recent call last):
        ValueError: label names must be exactly these, in this order: Mass, Nodule; but got ['Nodule', 'Mass']
    """
    if isinstance(given, str) or [*map(str, given)] != [*map(str, expected)]:
        raise ValueError(
            f"label names must be exactly these, in this order: {', '.join(expected)}; but got {given!r:.500}"
        )


def checked_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """Return label names as a tuple of `str`. Raise `ValueError` unless they are a sequence with one name per label."""
    if names is None:
        return None
    listed = names.tolist() if hasattr(names, "tolist") else names  # an array
    strings = isinstance(listed, Sequence) and not isinstance(listed, str) and all(isinstance(n, str) for n in listed)
    if not strings or not num_classes == len(listed) > 0:
        raise ValueError(
            f"label_names must be one name for each of {num_classes or 'the'} labels, but got {names!r:.300}; "
            "pass a list or a tuple of strings"
        )
    if twice := [name for name in listed if listed.count(name) > 1]:
        raise ValueError(f"label_names must be unique, but {twice[0]!r} occurs {len(twice)} times")
    return tuple(map(str, listed))


def label_positions(names: Sequence[str], valid: Sequence[str] = NIH_LABELS) -> list[int]:
    """Return the position of each name in the valid names.

    Raises:
        ValueError: `names` is empty, or has a duplicate or an invalid name; the message suggests the closest valid one.
            Or `valid` is empty.

    Example:
        >>> label_positions(["Hernia", "Mass"])
        [13, 4]
    """
    names, valid = list(names), list(valid)
    if not valid:
        raise ValueError(f"there are no label names to find {', '.join(map(repr, names))} in; pass indices")
    for name in names:
        if name not in valid:
            by_lower = {v.lower(): v for v in valid}
            close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
            hint = f" (closest: {by_lower[close[0]]!r})" if close else ""
            raise ValueError(f"unknown label {name!r}{hint}; valid labels: {', '.join(valid)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"label names must be unique and not empty, got {names}; choose from: {', '.join(valid)}")
    return [valid.index(name) for name in names]
