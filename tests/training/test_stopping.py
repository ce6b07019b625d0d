"""Signals: which ones ask a run to stop, and which are none of its business."""

import os
import signal
from collections.abc import Iterator

import pytest

from sslkit import RunInterruptedError
from sslkit.training.stopping import SIGNALS, StopRequest, Terminated, name_of, stop_if_asked, stoppable, terminable

OTHERS = [number for number in SIGNALS if number not in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does, the next one finds what the last one found."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS, ids=name_of)
def test_every_signal_that_asks_to_stop_is_answered_after_the_step_with_a_shells_code(number: int):
    request = StopRequest(lambda: False, None)
    with request.listening():
        assert not request.asked()
        send(number)
        assert request.asked()
    explained = request.explained(RunInterruptedError("stopped in stage 'probe' after 3 steps"))
    assert str(explained) == f"{name_of(number)}: stopped in stage 'probe' after 3 steps"
    assert explained.exit_code == 128 + number


@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGINT], ids=name_of)
def test_before_there_is_anything_to_keep_a_signal_ends_it_and_a_run_inside_answers_itself(number: int):
    request = StopRequest(lambda: False, None)
    with terminable():
        with request.listening():
            send(number)
        assert request.asked()
        with pytest.raises(Terminated) as caught:
            send(number)
    assert caught.value.number == number


@pytest.mark.parametrize("number", SIGNALS, ids=name_of)
def test_what_is_ignored_stays_ignored(number: int):
    """``nohup`` ignores SIGHUP, and a script's background jobs ignore Ctrl-C."""
    before = signal.signal(number, signal.SIG_IGN)
    request = StopRequest(lambda: False, None)
    with terminable(), request.listening():
        send(number)
        assert not request.asked()
    assert signal.signal(number, before) == signal.SIG_IGN


def test_a_lost_connection_after_nohup_leaves_ctrl_c_as_it_is():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest(lambda: False, None)
    with request.listening():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert request.asked()
    assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN


@pytest.mark.parametrize("number", OTHERS, ids=name_of)
def test_a_signal_that_somebody_else_handles_is_theirs(number: int):
    heard: list[int] = []
    before = signal.signal(number, lambda number, _frame: heard.append(number))
    request = StopRequest(lambda: False, None)
    with terminable(), request.listening():
        send(number)
        assert not request.asked()
    assert heard == [number]
    signal.signal(number, before)


def test_long_work_asks_whoever_is_nearest():
    stop_if_asked("while waiting")
    with stoppable(lambda: True):
        with pytest.raises(RunInterruptedError, match=r"^stopped while decoding images$"):
            stop_if_asked("while decoding images")
        with stoppable(lambda: False):
            stop_if_asked("while waiting")
    stop_if_asked("while waiting")
