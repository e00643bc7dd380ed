"""The code that README shows runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_block_runs(block: str) -> None:
    exec(compile(block, str(README), "exec"), {})  # noqa: S102  (our own README)


def test_readme_is_short_and_has_code() -> None:
    assert len(BLOCKS) >= 2
    assert len(README.read_text().splitlines()) < 150


def test_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
