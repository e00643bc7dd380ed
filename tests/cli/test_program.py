"""The command line as a program: usage, help, and a closed pipe."""

import io
import subprocess
import sys

import pytest

import causalcxr_cli


@pytest.mark.parametrize("arguments", [[], ["predict", "a.png", "--workers=0"]])
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        causalcxr_cli.main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: causalcxr")


def test_an_error_handler_that_the_user_chose_for_the_output_stays(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"))
    causalcxr_cli.main(["models", "causal_test"])
    assert sys.stdout.errors == "backslashreplace"


@pytest.mark.parametrize("arguments", [["--version"], ["predict", "--help"]])
def test_help_and_version_do_not_wait_for_torch(arguments):
    code = f"""
import sys, causalcxr_cli
try:
    causalcxr_cli.main({arguments})
except SystemExit as exit_:
    print(exit_.code, [name for name in ("torch", "numpy", "causalcxr") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_leaves_no_traceback():
    program = [sys.executable, "-m", "causalcxr", "models"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
