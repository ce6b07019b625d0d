"""The gate between a job's steps: it counts images, and holds the job from the end of one slice until the next is asked for."""

import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple


class Slice(NamedTuple):
    """How much work to do in one go: at least so many steps, and at least so many seconds."""

    steps: int = 1
    seconds: float = 0.0


class Measured(NamedTuple):
    """What one slice took.

    Attributes:
        images: source images that went through, before a task multiplies them into views.
        steps: optimizer steps, or batches.
        seconds: wall time, all work of a GPU included.
        peak_rss: bytes resident at most so far, of the job's own process: loader workers are not in it.
        peak_gpu: bytes of a GPU allocated at most so far; 0 on a CPU.
        first_step: when the job's first step had ended, in seconds of the system's monotonic clock.
    """

    images: int
    steps: int
    seconds: float
    peak_rss: int
    peak_gpu: int
    first_step: float = 0.0


class Gate:
    """A job calls :meth:`step` after each of its steps, in an endless loop.

    The first slice begins here and now, so that it takes in the job's set-up; nobody counts it.

    Args:
        connection: sends :class:`Slice` and takes :class:`Measured`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._first_step = 0.0
        self._open()

    def step(self, num_images: int) -> None:
        """After a step over ``num_images`` source images. Returns when there is more to do.

        Raises:
            SystemExit: nobody asks any more.
        """
        self._images += num_images
        self._steps += 1
        if not self._first_step:
            _await_gpu()
            self._first_step = time.monotonic()
        if self._steps < self._wanted.steps or time.perf_counter() - self._since < self._wanted.seconds:
            return
        self._connection.send(self._measured())
        self._open()

    def _open(self) -> None:
        try:
            self._wanted: Slice = self._connection.recv()
        except EOFError:
            raise SystemExit from None  # no Exception: those of an observer are swallowed
        self._images = self._steps = 0
        self._since = time.perf_counter()

    def _measured(self) -> Measured:
        peak_gpu = _await_gpu()
        seconds = time.perf_counter() - self._since
        return Measured(self._images, self._steps, seconds, peak_rss(), peak_gpu, self._first_step)


def _await_gpu() -> int:
    """Let a GPU finish; returns the bytes of it allocated at most."""
    torch = sys.modules.get("torch")  # a job that has not imported it, which takes seconds, has no work there
    if torch is None or not torch.cuda.is_initialized():
        return 0
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def peak_rss() -> int:
    """Bytes that this process had resident at most."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss would begin with the size of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
