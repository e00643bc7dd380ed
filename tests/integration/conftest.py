"""The examples of `examples/integrations`, run as the scripts they are."""

import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "integrations"


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def printed(example, capsys):
    """Run an example, and return what it prints."""

    def run(name):
        example(name).main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def numbers():
    """Return the decimal numbers of a text."""
    return lambda text: [float(number) for number in re.findall(r"[-+]?\d+\.\d+(?:e-\d+)?", text)]
