"""Processes that decode images, and waits for them that end: such a process may die, stall, or find shared memory full."""

import atexit
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from sslkit.contract.blame import blaming, portable
from sslkit.contract.errors import RunFailedError
from sslkit.contract.images import ImageSet
from sslkit.data.image_file import FileWarning, gather_warnings, repeat_warnings
from sslkit.training.stopping import SIGNALS, stop_if_asked

_START = "fork" if sys.platform == "linux" else "spawn"
"""How a worker begins. A fork runs no script a second time and needs nothing that can be pickled; macOS and Windows do not have it."""

_AT_ONCE = 2
"""Batches that each worker has decoded, or is decoding, ahead of time."""
_ON_THE_WAY = 3
"""Batches that are pinned, waiting, and in use."""

_POLL = 0.2
_PATIENCE, _PATIENCE_AN_IMAGE = 120.0, 2.0
"""Seconds for a batch: enough for large images on a slow network disk. A worker that takes longer will not come back."""

_FAREWELL = 3.0
"""Seconds for workers to leave by themselves."""

_RESUME = "the same command resumes from the last checkpoint"
_OWN_PROCESS = "num_workers = 0 decodes in the run's own process"

_SHARED_MEMORY = Path("/dev/shm")


class Decoders:
    """Processes that decode one image set, pass after pass; batches come in order, whatever the number of workers, and in pinned memory
    if ``device`` is a GPU.

    A thread receives their batches: what comes from another process is received in pieces, and a worker that stalls between two of them
    would block the receiver for ever. If the main thread started them, torch would also raise the errors of dying workers from a signal
    handler, in the midst of anything.
    """

    def __init__(self, images: ImageSet, *, num_workers: int, device: torch.device) -> None:
        self._images, self._num_workers, self._device = images, num_workers, device
        self._orders: queue.SimpleQueue[Sequence[Tensor] | None] = queue.SimpleQueue()
        self._decoded: queue.Queue[Any] = queue.Queue(maxsize=1)
        self.ended = threading.Event()
        self._workers: tuple[BaseProcess, ...] = ()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._receive, name="sslkit-decoded-images", daemon=True)

    def decode(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over batches given by their indices: (N, C, H, W) images and (N,) int64 indices, on the CPU.

        Whoever leaves it before its last batch, or on an error, ends the workers. A worker that died, or batches that do not come for
        minutes, are a ``RunFailedError``.
        """
        waiting = len(chunks)
        _IDLE.pop(self, None)
        try:
            if waiting and not self._thread.is_alive():
                self._thread.start()
            self._orders.put(chunks)
            for chunk in chunks:
                batch = self._next(len(chunk))
                waiting -= 1
                yield batch
        finally:
            if waiting:
                self.end()
            else:
                _IDLE[self] = None
                end_idle(2)  # the workers of the training images and of the held-out ones stay

    def end(self) -> None:
        """Leave no process behind, not even one that is stopped."""
        if os.getpid() != self._process:
            return  # a forked process has a copy of this, and no say in it
        _IDLE.pop(self, None)
        self.ended.set()
        self._orders.put(None)
        if self._thread.is_alive() and not any(worker.exitcode for worker in self._workers):
            self._thread.join(_FAREWELL)
        for worker in self._workers:
            _kill(worker)
        if self._thread.is_alive():
            self._thread.join(_FAREWELL)  # one that Python's end finds in torch's code would abort the process

    def _next(self, batch_size: int) -> tuple[Tensor, Tensor]:
        patience = _PATIENCE + _PATIENCE_AN_IMAGE * batch_size
        # Counted, not timed: a job that a scheduler suspends, workers and all, has waited for nobody.
        for _ in range(int(patience / _POLL)):
            with suppress(queue.Empty):
                received = self._decoded.get(timeout=_POLL)
                if isinstance(received, BaseException):
                    raise received
                images, indices, warned = received
                repeat_warnings(warned)
                return images, indices
            stop_if_asked("while waiting for images")
            if dead := [worker for worker in self._workers if worker.exitcode]:
                raise _died(dead[0].exitcode)
        raise RunFailedError(
            f"no batch of images came for {patience:.0f} seconds from the processes that decode them",
            fix=f"is the disk slow, or shared memory full ({describe_shared_memory()})? {_OWN_PROCESS}; {_RESUME}",
        )

    def _explained(self, error: BaseException) -> BaseException:
        """Why the thread receives no more: a worker that has died, if one has, whatever torch makes of it."""
        for worker in self._workers:
            worker.join(_POLL)  # it may be about to
            if worker.exitcode:
                return _died(worker.exitcode)
        return _died(None) if "DataLoader worker" in str(error) else error

    def _receive(self) -> None:
        try:
            with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():  # a thread has a GPU of its own
                order = _Order()
                loader = DataLoader(
                    _Reader(self._images),
                    batch_size=None,  # the reader makes whole batches itself
                    sampler=order,
                    num_workers=self._num_workers,
                    prefetch_factor=_AT_ONCE,
                    persistent_workers=True,
                    worker_init_fn=_begin,
                    multiprocessing_context=_START,
                    pin_memory=self._device.type == "cuda",
                    generator=Generator(),  # torch seeds workers from the global generator otherwise: a resumed epoch would draw once more
                )
                while (chunks := self._orders.get()) is not None:
                    order.chunks = chunks
                    for batch in iter(loader) if self._workers else self._start(loader):
                        if not self._hand_over(batch):
                            return
        except BaseException as error:  # whatever it is, somebody waits for it
            self._hand_over(self._explained(error))

    def _start(self, loader: DataLoader[Any]) -> Iterator[Any]:
        with _STARTING:
            others = set(multiprocessing.active_children())
            with _script_not_run_again():
                batches = iter(loader)
            self._workers = tuple(set(multiprocessing.active_children()) - others)
            _ALIVE.update(self._workers)
        return batches

    def _hand_over(self, item: Any) -> bool:
        """Whether anybody takes it."""
        while not self.ended.is_set():
            with suppress(queue.Full):
                self._decoded.put(item, timeout=_POLL)
                return True
        return False


class _Order:
    """The batches of a pass, in place of a sampler: torch asks for them anew in every pass, and for each list of indices when it needs it."""

    chunks: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (chunk.tolist() for chunk in self.chunks)


_IDLE: dict[Decoders, None] = {}
"""In the order of their last use."""


def end_idle(remaining: int = 0) -> None:
    """End workers that have nothing to do, but for those of the ``remaining`` image sets that were decoded last."""
    for decoders in list(_IDLE)[: len(_IDLE) - remaining]:
        decoders.end()


_STARTING = threading.Lock()
_ALIVE: set[BaseProcess] = set()
"""Workers that were not seen to have ended."""


@atexit.register
def _kill_all() -> None:
    """Else Python would wait at its end for processes that ignore what it sends them."""
    for worker in tuple(_ALIVE):
        _kill(worker)


def _kill(worker: BaseProcess) -> None:
    with suppress(ValueError):  # was closed by somebody else
        worker.kill()
        worker.join(_FAREWELL)
    _ALIVE.discard(worker)


class _Reader(TorchDataset):
    """An image set as torch's loader wants it: a whole batch a call."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, list[FileWarning]] | BaseException:
        try:
            with blaming("reading images"):
                pixels, warned, _WARNED[:] = self.images.read(indices), [*_WARNED], []
                return pixels, torch.tensor(indices), warned
        # Handed over: raised in a worker, torch would wrap its message into the worker's traceback.
        except (Exception, SystemExit) as error:
            return portable(error)


_WARNED: list[FileWarning] = []
"""In a worker, what libraries have warned of since the last batch."""


def _begin(_worker: int) -> None:
    """A terminal and a scheduler signal every process of a run: a worker that died of it would keep the run from finishing its step."""
    gather_warnings(_WARNED)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGBUS"):
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch prints something; the run says what it means


def num_fitting_workers(batch_bytes: int) -> int:
    """How many of them shared memory has room for now: tensors go through it, and containers often have little."""
    if not _SHARED_MEMORY.is_dir():
        return sys.maxsize  # macOS and Windows have no such limit
    return max(0, (shutil.disk_usage(_SHARED_MEMORY).free // max(1, batch_bytes) - _ON_THE_WAY) // _AT_ONCE)


def describe_shared_memory() -> str:
    """How much there is, and how much of it is free."""
    if not _SHARED_MEMORY.is_dir():
        return "of unknown size"
    usage = shutil.disk_usage(_SHARED_MEMORY)
    return f"{_SHARED_MEMORY}: {usage.total / 2**20:,.0f} MiB, {usage.free / 2**20:,.0f} MiB free"


def _died(exit_code: int | None) -> RunFailedError:
    if hasattr(signal, "SIGBUS") and exit_code == -signal.SIGBUS:
        return RunFailedError(
            f"shared memory is full: a process that decodes images died of it ({describe_shared_memory()})",
            fix=f"give it more, in Docker with --shm-size=8g, or lower num_workers; {_OWN_PROCESS}; {_RESUME}",
        )
    names = {-number: number.name for number in signal.Signals}
    how = "" if exit_code is None else f" ({names.get(exit_code, f'exit code {exit_code}')})"
    return RunFailedError(
        f"a process that decodes images died{how}, which the system ends when memory is short",
        fix=f"{_RESUME}; lower image_size, batch_size or num_workers if it happens again",
    )


def why_not_elsewhere(images: ImageSet) -> str:
    """Why images cannot be decoded in another process; empty where they can. A fork has them already."""
    if _START == "fork":
        return ""
    try:
        pickled = bytes(ForkingPickler.dumps(images))
    except Exception as error:
        return f"their image set cannot be sent to another ({' '.join(str(error).split())})"
    return "their image set is defined in the script itself; move it into a module of its own" if b"__main__" in pickled else ""


@contextmanager
def _script_not_run_again() -> Iterator[None]:
    """A spawned process runs the script that started it, unless that has no file: one without a main guard would start workers again.
    A worker needs nothing of the script, because ``why_not_elsewhere`` has made sure that its image set comes from a module.
    """
    if _START == "fork":
        yield
        return
    main = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)
