"""The fourteen findings of NIH ChestX-ray14, and checks of label names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ["NIH_LABELS", "check_label_names", "label_positions"]

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
"""Label order of the NIH release. `No Finding` is the absence of all fourteen, never a label of its own."""


def check_label_names(given: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse label names that differ from the expected ones in number, spelling or order.

    Scores and targets are matched by position. Two lists of the same names in another order would silently compare one
    finding with another.

    Args:
        given: Names that came with the data or the weights.
        expected: Names in the order in which they are used.

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


def label_positions(names: Sequence[str], valid: Sequence[str] = NIH_LABELS) -> list[int]:
    """Position of each name among the valid names.

    Raises:
        ValueError: No name is given, one is given twice, or one is not valid. Then the message has the closest.

    Example:
        >>> label_positions(["Hernia", "Mass"])
        [13, 4]
    """
    names, valid = list(names), list(valid)
    for name in names:
        if name not in valid:
            by_lower = {v.lower(): v for v in valid}
            close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
            hint = f" (closest: {by_lower[close[0]]!r})" if close else ""
            raise ValueError(f"unknown label {name!r}{hint}; valid labels: {', '.join(valid)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"label names must be given, each once, got {names}; choose from: {', '.join(valid)}")
    return [valid.index(name) for name in names]
