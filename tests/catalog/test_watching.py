"""Who is notified of what in a run: observers, people at the command line, and in Python those who have no observer."""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sslkit import Event, Notice, Observer, SslkitWarning, StageEnd, StageStart, StepEnd, load_recipe, run_recipe
from sslkit.cli.console import progress_on_stderr
from sslkit.recipe.recipe import Recipe
from tests.observers import Recorder
from tests.recipes import SMALL


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two stages."""
    (tmp_path / "small.toml").write_text(SMALL)
    return load_recipe(tmp_path / "small.toml")


class Reader(Recorder):
    """Shows a person what it is notified of."""

    shows_notices = True


def begun(recipe: Recipe, folder: Path) -> Path:
    """A run's folder with a checkpoint that cannot be read: the next start has something to say."""
    steps = Recorder(StepEnd)
    with pytest.raises(Exception, match=r"stopped in stage 'pretrain' after [12] step"):
        run_recipe(recipe, output=folder, observers=[steps, Reader(Notice)], should_stop=lambda: bool(steps.events))
    (checkpoint,) = (folder / "pretrain").glob("checkpoint-*.safetensors")
    checkpoint.write_bytes(b"damaged")
    return folder


def caught(recipe: Recipe, folder: Path, *observers: Observer) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        run_recipe(recipe, output=folder, observers=observers, report=False)
    return [warning for warning in found if issubclass(warning.category, SslkitWarning)]


def test_notices_are_warnings_where_no_observer_shows_them_each_once_and_of_the_callers_line(recipe: Recipe, tmp_path: Path):
    recorder = Recorder(Notice)
    found = caught(recipe, begun(recipe, tmp_path / "run"), recorder)
    assert [str(warning.message) for warning in found] == recorder.messages()
    assert len(set(recorder.messages())) == len(recorder.messages())
    assert "no checkpoint can be read: the training begins from the start" in recorder.messages()
    assert {warning.filename for warning in found} == {__file__}


def test_notices_are_no_warnings_where_somebody_reads_them(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert caught(recipe, begun(recipe, tmp_path / "read"), Recorder(Notice), Reader(Notice)) == []
    for quiet, num_notes in ((False, 1), (True, 0)):
        with progress_on_stderr(quiet=quiet) as observers:
            assert caught(recipe, begun(recipe, tmp_path / f"quiet {quiet}"), *observers) == []
        assert capsys.readouterr().err.count("note: no checkpoint can be read") == num_notes


@dataclass(frozen=True, kw_only=True)
class Failing(Observer):
    """Raises at every step."""

    error: BaseException

    def observe(self, event: Event) -> None:
        if isinstance(event, StepEnd):
            raise self.error


class Odd(BaseException):
    """Nobody catches it by accident."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyError("x"), "KeyError: 'x'"), (SystemExit(3), "SystemExit: 3"), (Odd(), "Odd"), (RecursionError("deep"), "RecursionError: deep")],
    ids=repr,
)
def test_an_observer_that_fails_is_named_once_a_run_and_left_out(error: BaseException, reason: str, recipe: Recipe, tmp_path: Path):
    reader = Reader(Notice, StageStart, StageEnd)
    run_recipe(replace(recipe, observers=(Failing(error=error),)), output=tmp_path / "run", observers=[reader], report=False)
    notices = [event for event in reader.of(Notice) if event.message.startswith("observer")]
    assert [(event.stage, event.message) for event in notices] == [
        ("pretrain", f"observer Failing of {Path(__file__).name} failed at StepEnd and is left out: {reason}")
    ]
    assert [type(event) for event in reader.events if not isinstance(event, Notice)] == [StageStart, StageEnd] * 2


@dataclass(frozen=True, kw_only=True)
class Meddling(Observer):
    """Sets what everybody shares."""

    folder: str

    def observe(self, event: Event) -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        os.chdir(self.folder)
        torch.manual_seed(0)


def test_what_an_observer_sets_is_put_back_and_said_once(recipe: Recipe, tmp_path: Path):
    reader, before = Reader(Notice), (torch.get_num_threads(), Path.cwd())
    meddling = replace(recipe, observers=(Meddling(folder=str(tmp_path)),))
    meddled = run_recipe(meddling, output=tmp_path / "meddled", observers=[reader], report=False)
    alone = run_recipe(recipe, output=tmp_path / "alone", observers=[Reader()], report=False)
    assert meddled.results.stages == alone.results.stages
    assert (torch.get_num_threads(), Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()) == (*before, True, torch.float32)
    messages = [message for message in reader.messages() if message.startswith("observer")]
    assert [message.partition(" at ")[0] for message in messages] == [
        f"observer Meddling of {Path(__file__).name} changed torch's default dtype, torch's number of threads, torch's gradient mode, "
        "the working directory"
    ]


def test_when_the_reader_itself_fails_python_says_so(recipe: Recipe, tmp_path: Path):
    class Broken(Reader):
        def observe(self, event: Event) -> None:
            raise KeyError("x")

    warning, *_ = caught(recipe, tmp_path / "run", Broken())
    assert str(warning.message).startswith("observer test_when_the_reader_itself_fails_python_says_so.<locals>.Broken of test_watching.py")


def test_ctrl_c_pressed_twice_is_no_failure_of_an_observer(recipe: Recipe, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=tmp_path / "run", observers=[Failing(error=KeyboardInterrupt())])
