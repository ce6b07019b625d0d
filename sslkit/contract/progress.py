"""Progress of long work other than training: whoever does it counts, whoever shows it watches, and neither knows the other."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

_SECONDS = 0.25
"""Between two reports."""


class Count(NamedTuple):
    """How far one piece of work has come."""

    what: str  # the work, in words, with files as they are named: they may not be printable
    done: int
    total: int | None  # None where nobody knows
    finished: bool = False  # the work has ended, with success or not


Watcher = Callable[[Count], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` see what is counted meanwhile in this thread: at most a few times a second, and once more when it ends.

    Work that is done within a fraction of a second is not reported. A watcher that raises is dropped with a warning.
    """
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Count things as they are done: yields a function to be called with the number of things done since the last call.

    Costs next to nothing, least of all when nobody watches. Call it in the thread that entered: others do not see who watches, and the
    count is not locked.

    Args:
        what: the work, in words: ``scanning images in photos``.
        total: how many things there are, where that is known.
    """
    watcher = _watcher.get()
    count, reported, any_reported = Count(what, 0, total), time.monotonic(), False

    def add(num_things: int) -> None:
        nonlocal count, reported, any_reported
        count = count._replace(done=count.done + num_things)
        if watcher is not None and (now := time.monotonic()) - reported >= _SECONDS:
            reported, any_reported = now, True
            report(count)

    def report(count: Count) -> None:
        nonlocal watcher
        try:
            if watcher is not None:
                watcher(count)
        except Exception as error:  # as with observers: watching a run never takes it down
            watcher = None
            warnings.warn(f"progress cannot be shown any more: {error!r}", RuntimeWarning, stacklevel=2)

    try:
        yield add
    finally:
        if any_reported:
            report(count._replace(finished=True))
