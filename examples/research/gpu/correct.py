"""Part "correct": run the tests of tests/gpu on the device, one row for each failure and for each record."""

import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu.recording import Record, arguments, stop_before

REPOSITORY = Path(__file__).resolve().parents[3]


class Reporter:
    """A pytest plugin that writes each result as it comes."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which test runs, for the case that it is killed."""
        self.record.content["now"] = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test when it has run, or when its set-up went wrong or skipped it."""
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] += 1
        self.seconds[report.nodeid] = round(report.duration, 2)
        name = report.nodeid.split("/")[-1]
        for what, finding in report.user_properties:
            self.record.row(f"{name} {what}", str(finding))
        if report.failed:
            text = str(report.longrepr)
            self.record.row(name, f"FAILED: {_reason(text)}", error=text[-4000:])
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.record.row(name, reason, hidden=True)
        self.record.content |= {"counts": dict(self.counts), "test_seconds": self.seconds}
        self.record.write()


def _reason(text: str) -> str:
    """Return the line of a failure that says what went wrong."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (lines or text.strip().splitlines() or [""])[0][:200]


def main() -> int:
    args = arguments(__doc__)
    record = Record("correct", args)
    reporter = Reporter(record)
    stop_before(record.seconds_left, pytest.exit.Exception)  # another one pytest would take for a failure of the test
    options = [
        *("-m", "gpu" if args.device == "cuda" else "not gpu", str(REPOSITORY / "tests" / "gpu")),
        *("--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")),
        # The project's own options turn every warning into an error: that is for the versions that it is developed on.
        *("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"),
        *("-q", "--show-capture=no", "-p", "no:cacheprovider", "-p", "no:logging"),
    ]
    status = int(pytest.main(options, plugins=[reporter]))
    signal.setitimer(signal.ITIMER_REAL, 0)
    if status == pytest.ExitCode.INTERRUPTED:
        record.row("not all in time", f"stopped at {record.content['now']}")
    passed, failed, skipped = (reporter.counts[outcome] for outcome in ("passed", "failed", "skipped"))
    shown = f"{passed} passed, {failed} failed, {skipped} skipped"
    record.row("tests", shown, goal="no failure", met=status == 0 and passed > 0, slowest=_slowest(reporter.seconds))
    record.content |= {"complete": True, "now": None}
    record.write()
    return status


def _slowest(seconds: dict[str, float], count: int = 8) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda item: -item[1])[:count])


if __name__ == "__main__":
    sys.exit(main())
