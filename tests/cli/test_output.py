"""Stdout belongs to the command, and what cannot be printed is no disaster."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from sslkit.cli import commands as cli
from tests.catalog.plugin_site import GOOD, Site
from tests.recipes import SMALL

NOISY = GOOD.replace("\n@hookimpl\ndef pretext_tasks():\n", '\n@hookimpl\ndef pretext_tasks():\n    print("in the hook")\n') + (
    'print("at import")\nimport os, warnings\nos.system("echo in a process")\nwarnings.warn("old\\nand slow", UserWarning)\n'
)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in this process and gives its exit code."""
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["sslkit", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    """Whoever read it has left."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    yield stream
    with suppress(OSError):
        stream.close()


@pytest.mark.usefixtures("no_report")
def test_progress_that_nobody_can_read_does_not_end_a_run(
    command: Callable[..., int], closed_pipe: TextIO, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """``sslkit run ... 2>&1 >results.txt | head -2``"""
    monkeypatch.setattr(sys, "stderr", closed_pipe)
    assert command("run", "small.toml") == 0
    assert "run folder: runs/small" in capsys.readouterr().out


@pytest.mark.usefixtures("no_report")
def test_results_that_a_full_disk_refuses_are_said_to_be_in_the_folder(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        code = command("run", "small.toml")
    assert code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: standard output cannot be written (No space left on device); the run is finished, and its results are in runs/small"
    )
    assert json.loads(Path("runs/small/results.json").read_text())["pending"] == []


@pytest.mark.parametrize("arguments", [("recipes",), ("plugins", "--json"), ("check", "small.toml")])
def test_a_reader_that_has_left_needs_no_words(
    arguments: tuple[str, ...],
    command: Callable[..., int],
    closed_pipe: TextIO,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert command(*arguments) == 141
    assert "rror" not in capsys.readouterr().err


def test_without_any_streams_a_command_works(command: Callable[..., int], monkeypatch: pytest.MonkeyPatch):
    """As after ``>&- 2>&-``, or without a console on Windows."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert command("check", "small.toml") == 0
    assert command("check", "smal.toml") == 2


@pytest.mark.filterwarnings("default")
def test_a_plugin_that_prints_does_not_print_into_results(site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    site.install("noisy", NOISY.replace("os.system", "str"))
    assert command("plugins", "--json") == 0
    out, err = capsys.readouterr()
    assert "noisy" in [plugin["name"] for plugin in json.loads(out)]
    assert err.splitlines() == ["at import", "note: old and slow (UserWarning of site_noisy)", "in the hook"]


@pytest.mark.slow
def test_nor_does_a_process_that_it_starts(site: Site, tmp_path: Path):
    site.install("noisy", NOISY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd(), *sys.path])}  # noqa: PTH109
    command = [sys.executable, "-m", "sslkit", "plugins", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "noisy" in [plugin["name"] for plugin in json.loads(done.stdout)]
    assert {"at import", "in a process", "in the hook"} <= set(done.stderr.splitlines())


CHATTY = """
import warnings
from dataclasses import dataclass
from sslkit import Observer

@dataclass(frozen=True, kw_only=True)
class Chatty(Observer):
    def observe(self, event):
        print("observed")
        warnings.warn("unwanted")

@dataclass(frozen=True, kw_only=True)
class Failing(Chatty):
    port: int = 0

    def __post_init__(self):
        if self.port < 0:
            from sslkit import OptionError
            raise OptionError("port", "is no port", found=self.port)
        raise (ConnectionError, ValueError, SystemExit)[self.port]("no server")
"""


@pytest.fixture
def watchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "watchers.py").write_text(CHATTY)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("watchers", None)


@pytest.mark.usefixtures("no_report")
@pytest.mark.slow
@pytest.mark.usefixtures("watchers")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("quiet", [False, True])
def test_what_foreign_code_prints_in_a_run_is_no_result_and_its_warnings_are_notes_unless_quiet(
    quiet: bool, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    arguments = ["run", "small.toml", 'observers=[{ name = "watchers:Chatty" }]', "--allow-code"]
    assert command(*arguments, *(["--quiet"] if quiet else [])) == 0
    out, err = capsys.readouterr()
    assert "observed" not in out
    assert err.count("note: unwanted (UserWarning of watchers)") == (0 if quiet else 1)
    assert (out, set(err.splitlines())) == ("", {"observed"}) or not quiet


@pytest.mark.usefixtures("watchers")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("port", "error"), [(0, "ConnectionError: no server"), (1, "no server"), (2, "SystemExit: no server")])
def test_an_observer_that_cannot_be_made_is_left_out(
    port: int, error: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert command("check", "small.toml", f'observers=[{{ name = "watchers:Failing", port = {port} }}]', "--allow-code") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("small.toml: fine, 2 stages")
    (line,) = [line for line in err.splitlines() if line.startswith("note: observers[0]: ")]
    assert line.endswith(f"{error}; this observer is left out")


@pytest.mark.usefixtures("watchers")
def test_an_observers_option_that_is_wrong_is_an_error(command: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert command("check", "small.toml", 'observers=[{ name = "watchers:Failing", port = -1 }]', "--allow-code") == 2
    assert capsys.readouterr().err == "error: observers[0].port: is no port; found -1\n"
