"""A plugin of pytest: a line of JSON with the number of tests, and one for each as soon as it has ended. pytest's own reports come when
all have.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """What compiles comes last: it takes longest, and tells least should the others fail."""
        items.sort(key=lambda item: any(word in item.nodeid for word in ("compiled", "graphs")))
        self._write({"collected": len(items)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ends with its call, or before if it is skipped or its set-up fails; a failing tear-down counts as well."""
        if report.when != "call" and report.passed:
            return
        line = {"name": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if not report.passed:
            line["reason"] = report.longreprtext[-_LONG:]
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
