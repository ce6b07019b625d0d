"""A plugin of pytest: one line of JSON for each test as soon as it has ended. pytest's own reports come when all have."""

import json
import os
from pathlib import Path

import pytest

_LONG = 2000
"""Letters of a reason that are kept."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    parser.addoption("--each-test", default=os.devnull, help="append a line for each test to this file")


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.pluginmanager.register(_Lines(Path(str(config.getoption("--each-test")))))


class _Lines:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ends with its call, or before if it is skipped or its set-up fails; a failing tear-down counts as well."""
        if report.when != "call" and report.passed:
            return
        line = {"name": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if not report.passed:
            line["reason"] = report.longreprtext[-_LONG:]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
