"""The page on other libraries shows the examples that there are, and each of these has its test."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interplay.md").read_text()
FILES = sorted(path.name for path in (ROOT / "examples" / "interplay").glob("*.py") if path.stem != "short_training")
SNIPPETS = re.findall(r'--8<-- "([\w/]+\.py):(\d+):(\d+)"', PAGE)


def test_table_has_every_file() -> None:
    assert sorted(re.findall(r"^\|[^|]+\| `(\w+\.py)`", PAGE, flags=re.MULTILINE)) == FILES


@pytest.mark.parametrize("name", FILES)
def test_example_is_run(name: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "integration" / "interplay").glob("test_*.py"))
    assert f'printed("{Path(name).stem}")' in tests


@pytest.mark.parametrize(("file", "first", "last"), SNIPPETS)
def test_snippet_is_a_whole_definition(file: str, first: str, last: str) -> None:
    statements = ast.parse((ROOT / file).read_text()).body
    definitions = [node for node in statements if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert (int(first), int(last)) in [(node.lineno, node.end_lineno) for node in definitions]
