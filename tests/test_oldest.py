"""The oldest tested versions are the oldest that the package allows."""

import re
from pathlib import Path

import pytest
from packaging.version import Version

tomllib = pytest.importorskip("tomllib", reason="part of Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ["train", "dicom", "dev"]  # what `make test-oldest` installs


def test_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    bounds = [re.fullmatch(r"([\w-]+)(>=|==)([\d.]+)", line) for line in lines if not line.startswith("causalcxr[")]
    assert None not in bounds  # every requirement has a lower bound or is pinned
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "tests" / "oldest.txt").read_text(), flags=re.MULTILINE))
    assert len(bounds) > 10
    for name, operator, version in (bound.groups() for bound in bounds):
        assert operator == "==" or Version(oldest[name]) == Version(version)
