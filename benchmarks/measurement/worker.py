"""A variant of a job in a process of its own: settings that hold for a whole process, the allocator's above all, cannot leak."""

import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from measurement.gate import Gate, Measured, Slice
from sslkit.contract.errors import RunFailedError

_PATIENCE = 1200.0
"""Seconds without an answer after which a worker counts as stuck; compiling for a GPU takes minutes."""


class Variant(NamedTuple):
    """One way to do a job.

    Attributes:
        name: in tables.
        entry: ``module:function``; called with the workload and a :class:`Gate`, whose ``step`` it calls in an endless loop.
        workload: what to do; pickled.
    """

    name: str
    entry: str
    workload: Any


class Worker:
    """A running variant. A context manager: at its end the process is killed, and every process that it has started.

    Args:
        variant: what to run.

    Attributes:
        started: when, in seconds of the system's monotonic clock.
    """

    def __init__(self, variant: Variant) -> None:
        self.started = time.monotonic()
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "measurement.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the table on stdout is ours alone
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._connection.send(variant)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._connection.close()

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ask(self, wanted: Slice) -> None:
        """Ask for one slice of work, and return at once."""
        with suppress(BrokenPipeError):  # the reason may still lie in the pipe
            self._connection.send(wanted)

    def is_ready(self, seconds: float) -> bool:
        """Whether there is an answer to take within so many seconds, be it that the variant has failed."""
        try:
            return self._connection.poll(seconds)
        except (EOFError, OSError):
            return True

    def answer(self) -> Measured:
        """Wait for the slice that was asked for.

        Raises:
            RunFailedError: the variant failed, died or is stuck.
        """
        try:
            if not self._connection.poll(_PATIENCE):
                raise RunFailedError(f"no answer for {_PATIENCE:.0f} seconds")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise RunFailedError(f"the process died, exit code {self._process.wait()}") from None
        if isinstance(answer, str):
            raise RunFailedError(answer)
        return answer


def main(connection: Connection) -> None:
    """The worker's side."""
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        variant: Variant = connection.recv()
        pkgutil.resolve_name(variant.entry)(variant.workload, Gate(connection))
        connection.send("ended although more was asked for")
    except Exception as error:
        traceback.print_exc()
        connection.send(_one_line(error))


def _die_with_parent(parent: int) -> None:
    """A parent that is killed cannot clean up: then the whole session goes, loader workers too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def _one_line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(place.filename).name}:{place.lineno})"


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
