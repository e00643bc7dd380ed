"""The oldest versions that the tests are run with are the oldest that the package allows."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="part of Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ["train", "dicom", "dev"]  # what `make test-oldest` installs


def _versions(lines: list[str], operator: str) -> dict[str, Version]:
    """Return the version behind the operator of every requirement that has one."""
    specifiers = [(line.name, specifier) for line in map(Requirement, lines) for specifier in line.specifier]
    return {name: Version(specifier.version) for name, specifier in specifiers if specifier.operator == operator}


@pytest.fixture(scope="module")
def required() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [line for line in project["dependencies"] + extras if not line.startswith("causalcxr[")]


def test_every_requirement_has_a_lower_bound_or_is_pinned(required: list[str]) -> None:
    assert [line for line in required if not _versions([line], ">=") and not _versions([line], "==")] == []


def test_oldest_versions_are_the_lower_bounds(required: list[str]) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines()]
    oldest, bounds = _versions([line for line in lines if line], "=="), _versions(required, ">=")
    assert {"torch", "numpy", "scikit-learn"} <= bounds.keys()
    assert {name: version for name, version in oldest.items() if name in bounds} == bounds
