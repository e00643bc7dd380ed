"""A small folder in the layout of the NIH release."""

import pytest

from nih_release import make_release


@pytest.fixture(scope="session")
def made_release(tmp_path_factory):
    """48 films of 24 patients, of which ten are tested on."""
    return make_release(tmp_path_factory.mktemp("release"), first=0, patients=24, test=10, side=64)
