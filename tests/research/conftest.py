"""Everything in this folder is of the tier `research`."""

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before items are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("research")
