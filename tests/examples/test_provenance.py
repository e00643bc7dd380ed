import subprocess
from pathlib import Path

import pytest

import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a library and an example, that `commit` takes for its own."""
    for name in ("causalcxr/__init__.py", "examples/provenance.py", "docs/results/a.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "examples" / "provenance.py"))
    monkeypatch.setattr(provenance.causalcxr, "__file__", str(tmp_path / "causalcxr" / "__init__.py"))
    return tmp_path


def git(folder: Path, *command: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(folder), *command],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def commit() -> str:
    return provenance.commit.__wrapped__()  # not what an earlier call saw


def test_names_the_commit_and_what_differs_from_it(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "docs" / "results" / "a.json").write_text("{}")
    assert commit() == head
    (checkout / "examples" / "new.py").write_text("")
    assert commit() == f"{head}-dirty"


def test_unknown_for_a_library_from_elsewhere(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.causalcxr, "__file__", "/elsewhere/causalcxr/__init__.py")
    assert commit() == "unknown"
