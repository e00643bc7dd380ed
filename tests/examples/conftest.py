"""Fixtures for the tests of the example scripts."""

import pytest

from nih_release import make_release


@pytest.fixture(scope="session")
def made_release(tmp_path_factory):
    """NIH-style release with 48 images of 24 patients, ten of them in the test split."""
    return make_release(tmp_path_factory.mktemp("release"), first=0, patients=24, test=10, side=64)
