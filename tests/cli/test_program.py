"""The command line as a program: usage, help, and a reader that goes away."""

import runpy
import subprocess
import sys

import pytest

from causalcxr import cli

CLINICAL = "Research software, not a medical device, not for clinical use."


@pytest.mark.parametrize("arguments", [[], ["predict"], ["predict", "a.png", "--format=xml"], ["unknown"]])
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: causalcxr")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["evaluate", "--help"]])
def test_help_says_that_it_is_not_for_clinical_use(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 0
    assert CLINICAL in " ".join(capsys.readouterr().out.split())


def test_the_package_runs_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["causalcxr", "models", "resnet18"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("causalcxr", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("causal_resnet18")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_leaves_no_traceback(tmp_path):
    program = [sys.executable, "-m", "causalcxr", "models"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
