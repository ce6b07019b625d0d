"""What ends a run before its end: Ctrl-C, SIGTERM, a time limit, or a caller's own question."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from sslkit.errors import RunInterruptedError

Handler = Callable[[int, FrameType | None], None]

_CODES = {signal.SIGINT: RunInterruptedError.CTRL_C, signal.SIGTERM: RunInterruptedError.TERMINATED}
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing was computed yet that could be kept: like Ctrl-C, it passes everybody who catches errors."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` for the time of the block. Only the main thread can listen; in another nothing changes."""
    with _answering({signal.SIGTERM: _terminate}):
        yield


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def _answering(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest:
    """Whether a run was asked to stop, and by what.

    Args:
        should_stop: a caller's own question, asked after every step.
        max_minutes: of the run's own time; None: no limit.
    """

    def __init__(self, should_stop: Callable[[], bool], max_minutes: float | None) -> None:
        self._should_stop = should_stop
        self._minutes = max_minutes
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: int | None = None

    def asked(self) -> bool:
        """Whether to stop after this step."""
        return self._signal is not None or self._time_is_up() or self._should_stop()

    def explained(self, error: RunInterruptedError) -> RunInterruptedError:
        """The interruption with who asked for it, and the exit code that says so."""
        if self._signal is not None:
            return RunInterruptedError(f"{_NAMES[signal.Signals(self._signal)]}: {error}", exit_code=_CODES[signal.Signals(self._signal)])
        if self._time_is_up():
            return RunInterruptedError(f"the {self._minutes:g} minutes are up: {error}", exit_code=RunInterruptedError.TIME_IS_UP)
        return error

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals ask, for the time of the block. Only the main thread can listen; in another nothing changes."""
        with _answering(dict.fromkeys(_CODES, self._take)):
            yield

    def _take(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-C pressed twice stops at once. A second SIGTERM changes nothing: some schedulers send several before they kill."""
        self._signal = self._signal or number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
