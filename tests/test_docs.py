"""The site: its code and its commands run, its links lead somewhere, and what it says of the package is so."""

import argparse
import importlib.util
import pkgutil
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import causalcxr
import models_table
from causalcxr_cli import parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "results" not in path.parts)


def _blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """Return the code blocks of a page, each with the lines before it."""
    text = path.read_text()
    found = re.finditer(rf"^```{language}[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def _text(page: str) -> str:
    return (DOCS / page).read_text()


def _commands(path: Path) -> Iterator[str]:
    for _, block in _blocks(path, "bash"):
        yield from filter(None, block.replace("\\\n", " ").splitlines())


def _cells(path: Path) -> list[list[str]]:
    """Return the rows of a page's tables."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


WITH_CODE = [page for page in PAGES if _blocks(DOCS / page, "python")]
COMMANDS = sorted({command for path in [*map(DOCS.joinpath, PAGES), ROOT / "README.md"] for command in _commands(path)})


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{Path(page).stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # the registry looks for the module of an entry point
    torch.manual_seed(0)
    for lines_before, code in _blocks(DOCS / page, "python"):
        exec(compile("\n" * lines_before + code, str(DOCS / page), "exec"), vars(module))  # noqa: S102  (our own pages)


class _ParsedError(Exception):
    pass


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("causalcxr ") or " -m causalcxr " in c])
def test_command_line_is_understood(command: str) -> None:
    assert parser().parse_args(_arguments(command, after="causalcxr"))


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if " examples/" in command and " -m " not in command]
)
def test_script_is_there_and_knows_its_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(word for word in shlex.split(command) if word.startswith("examples/"))
    pytest.importorskip({"app": "gradio", "export_onnx": "onnxruntime"}.get(Path(script).stem, "causalcxr"))
    assert (ROOT / script).is_file()
    _parse_only(Path(script).stem, _arguments(command, after=script), monkeypatch)


RESEARCH = sorted((ROOT / "examples" / "research").glob("*/README.md"))


@pytest.mark.parametrize(
    "command",
    sorted(
        {
            c
            for path in [*map(DOCS.joinpath, PAGES), *RESEARCH]
            for c in _commands(path)
            if re.search(" -m (?!causalcxr )", c)
        }
    ),
)
def test_study_is_there_and_knows_its_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = command.split(" -m ")[1].split()[0]
    arguments = _arguments(command, after=name)
    monkeypatch.chdir(ROOT / "examples" / "research")
    assert all(Path(word).is_file() for word in arguments if word.endswith(".json") and "studies" in word)
    _parse_only(name, arguments, monkeypatch)


def _parse_only(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*args: Any, **kwargs: Any) -> None:
        parse(*args, **kwargs)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(_ParsedError):
        importlib.import_module(module).main(arguments)


def _arguments(command: str, after: str) -> list[str]:
    words = shlex.split(command, comments=True)
    words = words[words.index(after) + 1 :]
    return words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), None)]


def test_make_has_the_targets_that_pages_name() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    calls = [call for page in PAGES for call in re.findall(r"(?:^|`)make ([a-z -]+)(?:`|$)", _text(page), re.MULTILINE)]
    named = {target for call in calls for target in call.split()}
    assert {"test", "test-oldest", "lint", "docs", "release"} <= named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", _text(page))
    assert [link for link in links if not (DOCS / page).parent.joinpath(link).is_file()] == []


def test_navigation_has_every_page() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for value in (entry.values() if isinstance(entry, dict) else entry) for page in pages(value)]

    assert sorted(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == PAGES


def test_api_pages_have_every_public_name() -> None:
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    named = [_resolve(name) for name in re.findall(r"^::: causalcxr\.(\S+)$", text, flags=re.MULTILINE)]
    packages = [thing for thing in named if isinstance(thing, types.ModuleType)]
    shown = named + [getattr(package, name) for package in packages for name in _shown_with(package)]
    for package in (causalcxr, *packages):
        names = [name for name in package.__all__ if not (package is causalcxr and name in ("models", "objectives"))]
        assert [name for name in names if not any(getattr(package, name) is thing for thing in shown)] == []


def _shown_with(package: types.ModuleType) -> list[str]:
    """Return the public names that come with a package's entry; a file of the same name hides one."""
    return [name for name in package.__all__ if f"{package.__name__}.{name}" not in sys.modules]


def _resolve(name: str) -> Any:
    """Return what a dotted name below `causalcxr` stands for."""
    return pkgutil.resolve_name(f"causalcxr.{name}")


METHOD = [row for row in _cells(DOCS / "method.md") if re.match(r"(Eq|Fig)\. \d|Table \d", row[0])]


def test_method_has_every_equation_figure_and_table() -> None:
    parts = {match[0] for row in METHOD if (match := re.match(r"\w+\.? \d", row[0]))}
    expected = {*(f"Eq. {i}" for i in range(1, 9)), *(f"Fig. {i}" for i in range(1, 5)), "Table 1", "Table 2"}
    assert parts == expected


@pytest.mark.parametrize("row", METHOD, ids=lambda row: row[0])
def test_method_names_what_is_there(row: list[str]) -> None:
    _, files, classes, _ = row
    for file in re.findall(r"`([\w/]+\.\w+)`", files):
        assert (ROOT / file if file.startswith("examples/") else ROOT / "causalcxr" / file).is_file()
    named = re.findall(r"`([A-Za-z_.]+)`", classes)
    assert named
    head = causalcxr.CausalHead(8, 2, dim=8, num_heads=2)
    for name in named:
        assert hasattr(head, name) or _resolve(name)


TENSORS = [row for row in METHOD if re.search(r"`out\.|`losses\[", row[3])]


@pytest.mark.parametrize("row", TENSORS, ids=lambda row: row[0])
def test_method_names_tensors_with_their_shapes(row: list[str]) -> None:
    sizes = {"B": 3, "S": 2, "K": 5, "D": 8, "1": 1}
    output = causalcxr.CausalHead(4, 5, dim=8, num_heads=2)(torch.randn(3, 4, 4, 4))
    losses = causalcxr.losses.CausalLoss()(output, torch.ones(3, 5))
    tensors = {f"out.{name}": value for name, value in output._asdict().items()}
    tensors |= {f'losses["{name}"]': value for name, value in losses.items()}
    named = [tensors[name] for name in re.findall(r"`([^`]+)`", row[3])]
    for axes in re.findall(r"\(([^)]+)\)", row[3]):
        assert {tensor.shape for tensor in named} == {tuple(sizes[axis] for axis in axes.split(", "))}
    if "scalar" in row[3]:
        assert {tensor.ndim for tensor in named} == {0}


def test_table_of_models_is_current() -> None:
    page = _text("models.md")
    assert models_table.updated(page) == page


def test_operations_are_multiply_accumulates() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 8 * 8, 7)).to("meta")
    assert models_table.operations(model, (3, 8, 8)) == 8 * 8 * 5 * 3 * 3 * 3 + 5 * 8 * 8 * 7


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe", reason="comes with causalcxr[docs]")
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    docstring = "Sum.\n\n.. math::\n    a_1 +\n    b\n\nOf :math:`a_1`.\n\nExample:\n    >>> 1\n    1"
    expected = "Sum.\n\n$$\na_1 +\n    b\n$$\n\nOf \\(a_1\\).\n\nExamples:\n    >>> 1\n    1"
    assert module.as_markdown(docstring) == expected
