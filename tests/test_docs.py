"""The documentation and README: code blocks run, commands parse, and names exist."""

import argparse
import importlib
import pkgutil
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch

import causalcxr
from causalcxr_cli import parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
STUDIES = sorted((ROOT / "examples" / "research").glob("*/README.md"))


def _blocks(path, language):
    """Return the code blocks of a page, each with the number of lines that precede it."""
    text = path.read_text()
    found = re.finditer(rf"^```{language}[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def _commands(of, pages=PAGES):
    """Parametrize a test by the commands of the pages that match the pattern `of`."""
    blocks = (block for page in pages for _, block in _blocks(page, "bash"))
    commands = {command for block in blocks for command in block.replace("\\\n", " ").splitlines()}
    return pytest.mark.parametrize("command", sorted(command for command in commands if re.search(of, command)))


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # the registry looks up the module of an entry point
    torch.manual_seed(0)
    for lines_before, code in _blocks(page, "python"):
        exec(compile("\n" * lines_before + code, str(page), "exec"), vars(module))  # noqa: S102  (our own pages)


def _arguments(command, after):
    words = shlex.split(command, comments=True)
    words = words[words.index(after) + 1 :]
    return words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), None)]


def _parse_only(module, arguments, monkeypatch):
    """Run a program until it has parsed its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*args, **kwargs):
        parse(*args, **kwargs)
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(InterruptedError):
        importlib.import_module(module).main(arguments)


@_commands("^causalcxr | -m causalcxr ")
def test_command_line_is_understood(command):
    assert parser().parse_args(_arguments(command, after="causalcxr"))


@_commands("^(?!.* -m ).* examples/")
def test_script_knows_its_arguments(command, monkeypatch):
    script = next(word for word in shlex.split(command) if word.startswith("examples/"))
    pytest.importorskip({"app": "gradio", "export_onnx": "onnxruntime"}.get(Path(script).stem, "causalcxr"))
    assert (ROOT / script).is_file()
    _parse_only(Path(script).stem, _arguments(command, after=script), monkeypatch)


@_commands(" -m (?!causalcxr )", [*PAGES, *STUDIES])
def test_study_knows_its_arguments(command, monkeypatch):
    name = command.split(" -m ")[1].split()[0]
    arguments = _arguments(command, after=name)
    monkeypatch.chdir(ROOT / "examples" / "research")
    assert all(Path(word).is_file() for word in arguments if word.endswith(".json") and "studies" in word)
    _parse_only(name, arguments, monkeypatch)


def test_api_pages_have_every_public_name():
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    shown = [pkgutil.resolve_name(name) for name in re.findall(r"^::: (causalcxr\.\S+)$", text, flags=re.MULTILINE)]
    packages = [thing for thing in shown if isinstance(thing, types.ModuleType)]
    for package in packages:  # its entry lists its public names, except names hidden by a module of the same name
        names = [name for name in package.__all__ if f"{package.__name__}.{name}" not in sys.modules]
        shown += [getattr(package, name) for name in names]
    for package in (causalcxr, *packages):
        names = [name for name in package.__all__ if not (package is causalcxr and name in ("models", "objectives"))]
        assert [name for name in names if not any(getattr(package, name) is thing for thing in shown)] == []


TABLE = [line.split("|")[1:-1] for line in (DOCS / "method.md").read_text().splitlines() if line.startswith("| ")]
ROWS = [row for row in TABLE if re.match(r" (Eq|Fig)\. \d| Table \d", row[0])]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_method_names_what_is_there(row):
    _, files, classes, _ = row
    for file in re.findall(r"`([\w/]+\.\w+)`", files):
        assert (ROOT / file if file.startswith("examples/") else ROOT / "causalcxr" / file).is_file()
    head = causalcxr.CausalHead(8, 2, dim=8, num_heads=2)
    for name in re.findall(r"`([A-Za-z_.]+)`", classes):
        assert hasattr(head, name) or pkgutil.resolve_name(f"causalcxr.{name}")
