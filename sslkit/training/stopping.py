"""What stops a run early: Ctrl-C, a signal, a time limit, or a caller's ``should_stop``."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from sslkit.contract.errors import RunInterruptedError

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
"""A terminal's (Ctrl-C, Ctrl-backslash, a lost connection) and those that schedulers send before they kill. All mean: stop."""

_asked: ContextVar[Callable[[], bool]] = ContextVar("asked", default=lambda: False)


@contextmanager
def stoppable(asked: Callable[[], bool]) -> Iterator[None]:
    """Within the block, let long work and waits in this thread ask ``asked`` whether to stop."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


def stop_if_asked(when: str) -> None:
    """For long work and waits between two steps, to be called every second or so: a ``RunInterruptedError`` once the run was asked to stop.

    ``when`` ends its message: ``while decoding images``.
    """
    if _asked.get()():
        raise RunInterruptedError(f"stopped {when}")


class Terminated(KeyboardInterrupt):
    """A signal before anything was computed that could be kept: like Ctrl-C, it is not caught by those who catch ``Exception``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def terminable() -> Iterator[None]:
    """Let signals other than Ctrl-C's raise :class:`Terminated` within the block. In other threads than the main one, nothing changes."""
    with _answering(_terminate, [number for number in SIGNALS if number != signal.SIGINT]):
        yield


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def _answering(handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Handle signals, except those that are ignored (``nohup``) or, other than SIGTERM and Ctrl-C, handled already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {}
    for number in numbers:
        found = signal.getsignal(number)
        if found not in (None, signal.SIG_IGN) and (number in (signal.SIGINT, signal.SIGTERM) or found in (signal.SIG_DFL, _terminate)):
            ours[number] = found
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, found in ours.items():
            signal.signal(number, found)


def name_of(number: int) -> str:
    """A signal's usual name."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequest:
    """Whether a run was asked to stop: by a signal, after ``max_minutes``, or by ``should_stop``, which is called after every step."""

    def __init__(self, should_stop: Callable[[], bool], max_minutes: float | None) -> None:
        self._should_stop = should_stop
        self._minutes = max_minutes
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: int | None = None

    def asked(self) -> bool:
        """Whether to stop after this step."""
        return self._signal is not None or self._time_is_up() or self._should_stop()

    def explained(self, error: RunInterruptedError) -> RunInterruptedError:
        """The interruption with its reason and the exit code that tells it."""
        if self._signal is not None:
            return RunInterruptedError(f"{name_of(self._signal)}: {error}", exit_code=RunInterruptedError.SIGNALLED + self._signal)
        if self._time_is_up():
            return RunInterruptedError(f"the {self._minutes:g} minutes are up: {error}", exit_code=RunInterruptedError.TIME_IS_UP)
        return error

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals ask to stop within the block. In other threads than the main one, nothing changes."""
        with _answering(self._take, SIGNALS):
            yield

    def _take(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-C pressed twice stops at once. A second SIGTERM changes nothing: some schedulers send several before they kill."""
        self._signal = self._signal or number
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
