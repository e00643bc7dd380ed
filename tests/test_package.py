"""Importing the package loads no optional dependency."""

import subprocess
import sys


def test_import_needs_the_core_dependencies_only():
    extras = ["matplotlib", "sklearn", "pydicom", "onnx", "onnxruntime", "captum"]
    code = f"import sys, causalcxr; print([name for name in {extras} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
