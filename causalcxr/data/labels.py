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
"""Label order of the NIH release. ``No Finding`` is the absence of all fourteen, never a label of its own."""


def check_label_names(given: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse label names that differ from the expected ones in number, spelling or order.

    Scores and targets are matched by position, so two lists of the same names in another order would silently
    compare one finding with another.

    Args:
        given: Names that came with the data or the checkpoint.
        expected: Names in the order in which they are used.

    Raises:
        ValueError: The lists differ. The message states the first position that differs and both names there.

    Example:
        >>> check_label_names(["Mass", "Nodule"], ("Mass", "Nodule"))
        >>> check_label_names(["Nodule", "Mass"], ("Mass", "Nodule"))
        Traceback (most recent call last):
        ValueError: label names are the same but in another order: position 0 is 'Nodule', expected 'Mass'; reorder \
the columns to: Mass, Nodule
    """
    given, expected = _as_names(given), _as_names(expected)
    if given == expected:
        return
    shared = min(len(given), len(expected))
    first = next((i for i in range(shared) if given[i] != expected[i]), shared)
    here, there = (repr(names[first]) if first < len(names) else "missing" for names in (given, expected))
    where = f"position {first} is {here}, expected {there}"
    order = ", ".join(expected)
    if len(given) != len(expected):
        if first == len(expected):
            where = f"position {first} is {here}, expected no more names"
        raise ValueError(
            f"{len(given)} label names given, {len(expected)} expected: {where}; give exactly these: {order}"
        )
    if sorted(given) == sorted(expected):
        raise ValueError(f"label names are the same but in another order: {where}; reorder the columns to: {order}")
    raise ValueError(f"label names differ: {where}; give exactly these: {order}")


def label_positions(names: Sequence[str], valid: Sequence[str] = NIH_LABELS) -> list[int]:
    """Position of each name among the valid names; an unknown name is answered with the closest valid ones.

    Args:
        names: Label names to look up, in any order, each at most once.
        valid: Names that exist.

    Returns:
        One position in ``valid`` for each of ``names``.

    Raises:
        TypeError: ``names`` is a single string or holds something that is not a string.
        ValueError: ``names`` is empty, repeats a name or holds one that is not valid.

    Example:
        >>> label_positions(["Hernia", "Mass"])
        [13, 4]
        >>> label_positions(["Pleural Thickening"])
        Traceback (most recent call last):
        ValueError: unknown label 'Pleural Thickening' (closest: 'Pleural_Thickening'); valid labels: Atelectasis, \
Cardiomegaly, Effusion, Infiltration, Mass, Nodule, Pneumonia, Pneumothorax, Consolidation, Edema, Emphysema, \
Fibrosis, Pleural_Thickening, Hernia
    """
    names, valid = _as_names(names), _as_names(valid)
    if not names:
        raise ValueError(f"no label names given; choose from: {', '.join(valid)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"label names given more than once: {', '.join(repeated)}; give each once")
    unknown = [name for name in names if name not in valid]
    if unknown:
        described = ", ".join(_with_closest(name, valid) for name in unknown)
        plural = "s" if len(unknown) > 1 else ""
        raise ValueError(f"unknown label{plural} {described}; valid labels: {', '.join(valid)}")
    return [valid.index(name) for name in names]


def _as_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"label names must be a list of strings, got the single string {names!r}; give [{names!r}]")
    names = list(names)
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"label names must be strings, got {wrong!r} of type {type(wrong).__name__}")
    return names


def _with_closest(name: str, valid: Sequence[str]) -> str:
    if name == "No Finding":
        return "'No Finding' (it is the absence of all labels: targets of zero)"
    by_lower = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.5)
    return f"{name!r} (closest: {', '.join(repr(by_lower[c]) for c in close)})" if close else repr(name)
