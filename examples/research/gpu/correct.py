"""Part "correct": run the tests of tests/gpu on the device."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu.recording import Record, arguments

REPOSITORY = Path(__file__).resolve().parents[3]


class Reporter:
    """A pytest plugin that counts tests, and writes each failure as it comes."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test when it has run, or when its set-up went wrong or skipped it."""
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
        if report.failed:
            self.record.row(report.nodeid, "see the error", met=False, error=str(report.longrepr)[-4000:])


def tests(record: Record) -> None:
    reporter = Reporter(record)
    options = [
        *("-m", "gpu" if record.args.device == "cuda" else "not gpu", str(REPOSITORY / "tests" / "gpu")),
        *("--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")),
        # The project's own options turn every warning into an error: that is for the versions that it is developed on.
        *("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"),
        *("-q", "--show-capture=no", "-p", "no:cacheprovider", "-p", "no:logging"),
    ]
    status = int(pytest.main(options, plugins=[reporter]))
    shown = ", ".join(f"{reporter.counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    record.row("tests", shown, met=status == 0)


if __name__ == "__main__":
    sys.exit(Record("correct", arguments(__doc__)).run([tests]))
