"""Fixtures of several test modules, and how long hypothesis searches: a moment in every run of the tests, hours with
``pytest --hypothesis-profile=campaign``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as many tests run at once as there are cores

import importlib.metadata
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from sslkit.cli import commands
from tests.catalog.plugin_site import Site

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

settings.register_profile("short", max_examples=150, derandomize=True, **_COMMON)
settings.register_profile("campaign", max_examples=20_000, **_COMMON)
settings.load_profile("short")


class Printed(NamedTuple):
    """What a command left in the terminal."""

    code: int
    out: str
    err: str


@pytest.fixture
def sslkit_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """Runs one command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # or loading `module:Class` would put it there for good
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: str) -> Printed:
        monkeypatch.setattr(sys, "argv", ["sslkit", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            commands.main()
        return Printed(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write no report, whose pictures take longer than a small run."""
    monkeypatch.setattr("sslkit.report.run.write_run_report", lambda *_: None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    real = {entry.name for entry in importlib.metadata.entry_points(group="sslkit")}
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", ",".join(real))
    monkeypatch.delenv("SSLKIT_STRICT_PLUGINS", raising=False)
    monkeypatch.delenv("SSLKIT_ALLOW_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield Site(tmp_path)
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def cifar10_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as JPEG files: a folder with ``train`` and ``test``, unpacked if it is an archive."""
    if not (found := os.environ.get("SSLKIT_CIFAR10_JPEG")):
        pytest.skip("SSLKIT_CIFAR10_JPEG does not name CIFAR-10 as JPEG files (a folder with train/ and test/, or a .tar.xz)")
    place = Path(found).expanduser()
    if place.is_dir():
        return place
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(place) as archive:
        archive.extractall(folder, filter="data")
    return next(path.parent for path in folder.rglob("train") if path.is_dir())
