"""Runs to report on, made by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sslkit.report.run_folder import RunFolder, read_run
from tests.report.run_folders import MakeRun, make_run


@pytest.fixture
def run_of(tmp_path: Path) -> MakeRun:
    """Makes a run's folder, as :func:`make_run` does, and reads it."""

    def make(stages: Mapping[str, Mapping[str, float]], folder: str = "", **options: Any) -> RunFolder:
        return read_run(make_run(tmp_path / folder, stages, **options))

    return make
