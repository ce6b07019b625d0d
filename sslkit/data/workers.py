"""Processes that decode images, and waits for them that end: such a process may die, stall, or find shared memory full."""

import atexit
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from sslkit.contract.blame import blaming, portable
from sslkit.contract.errors import RunFailedError
from sslkit.contract.events import warn
from sslkit.contract.images import ImageSet
from sslkit.data.library_warnings import Told, gather, tell
from sslkit.data.shared_memory import describe_shared_memory, megabytes, num_fitting
from sslkit.training.stopping import SIGNALS, stop_if_asked

_ENOUGH = 8
"""Workers, unless somebody asks for more."""

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

_GO_ON = "the same command goes on from the last checkpoint"
_OWN_PROCESS = "num_workers = 0 decodes in the run's own process"

_num_workers: ContextVar[int | Literal["auto"]] = ContextVar("num_workers", default="auto")


@contextmanager
def decoding_with(num_workers: int | Literal["auto"]) -> Iterator[None]:
    """Let every loader that is not told otherwise use so many workers, for the time of the block; ``auto``: as many as fit the machine."""
    before = _num_workers.set(num_workers)
    try:
        yield
    finally:
        _num_workers.reset(before)


def usable_cores() -> int:
    """Those that this process may use: a cluster often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_num_workers(images: ImageSet, batch_size: int, wanted: int | None) -> int:
    """How many workers decode: what is asked for, as far as shared memory holds their batches.

    Args:
        images: to be decoded.
        batch_size: images a batch.
        wanted: None: what the stage says, else one a core, 8 at most.

    Returns:
        0 to decode in this process.
    """
    given = _num_workers.get() if wanted is None else wanted
    number = min(_ENOUGH, usable_cores()) if given == "auto" else given
    if number and (why := _why_not_elsewhere(images)):
        warn(f"images are decoded in the run's own process, which is slower: {why}")
        return 0
    batch_bytes = min(batch_size, len(images)) * images.image.num_chs * images.image.height * images.image.width
    fitting = max(0, (num_fitting(batch_bytes) - _ON_THE_WAY) // _AT_ONCE)
    if number <= fitting:
        return number
    where = f"{fitting} process{'es' * (fitting > 1)} instead of {number}" if fitting else "the run's own process"
    warn(
        f"images are decoded by {where}, which is slower, for shared memory is small ({describe_shared_memory()}, and a batch takes"
        f" {megabytes(batch_bytes)}): give it more, in Docker with --shm-size=8g; num_workers = {fitting} says that this is meant"
    )
    return fitting


def decoded_by_workers(
    images: ImageSet, chunks: Sequence[Tensor], *, num_workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode batches in other processes; they come in order, whatever the number of workers.

    Args:
        images: to be decoded.
        chunks: the indices of each batch.
        num_workers: 1 or more.
        device: where they will go: for a GPU they come in pinned memory.

    Yields:
        Images, (N, C, H, W), and their indices, (N,) int64, on the CPU.

    Raises:
        DataError: as the image set raised it.
        RunFailedError: a worker died, or no batch came in minutes.
        RunInterruptedError: the run was asked to stop, and the next batch was not there yet.
    """
    decoders = _Decoders(images, chunks, num_workers=num_workers, device=device)
    try:
        for _ in chunks:
            yield decoders.next()
    finally:
        decoders.end()


class _Decoders:
    """The workers of one pass over images.

    A thread receives their batches: what comes from another process is received in pieces, and a worker that stalls between two of them
    would hold whoever waits, with no limit. Here that is nobody who matters.

    Torch also raises errors of dying workers out of a signal handler, in the midst of anything, if the main thread starts them.
    """

    def __init__(self, images: ImageSet, chunks: Sequence[Tensor], *, num_workers: int, device: torch.device) -> None:
        self._batch_size = len(chunks[0]) if chunks else 0
        self._device = device
        self._loader = DataLoader(
            _Reader(images),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=num_workers,
            prefetch_factor=_AT_ONCE,
            collate_fn=_keep,
            worker_init_fn=_begin,
            multiprocessing_context=_START,
            pin_memory=device.type == "cuda",
            generator=Generator(),  # torch seeds workers from the global generator otherwise: a resumed epoch would draw once more
        )
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._ended = threading.Event()
        self._workers: tuple[BaseProcess, ...] = ()
        self._thread = threading.Thread(target=self._receive, name="sslkit-decoded-images", daemon=True)
        if chunks:
            self._thread.start()

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch.

        Raises:
            RunFailedError: see :func:`decoded_by_workers`, as for the others.
        """
        patience = _PATIENCE + _PATIENCE_AN_IMAGE * self._batch_size
        # Counted, not timed: a job that a scheduler suspends, workers and all, has waited for nobody.
        for _ in range(int(patience / _POLL)):
            with suppress(queue.Empty):
                return self._checked(self._ready.get(timeout=_POLL))
            stop_if_asked("while waiting for images")
            if dead := [worker for worker in self._workers if worker.exitcode]:
                raise _died(dead[0].exitcode)
        raise RunFailedError(
            f"no batch of images came for {patience:.0f} seconds from the processes that decode them",
            fix=f"is the disk slow, or shared memory full ({describe_shared_memory()})? {_OWN_PROCESS}; {_GO_ON}",
        )

    def end(self) -> None:
        """Leave no process behind, also none that is stopped."""
        self._ended.set()
        if self._thread.is_alive() and not any(worker.exitcode for worker in self._workers):
            self._thread.join(_FAREWELL)
        for worker in self._workers:
            _kill(worker)

    def _checked(self, received: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(received, BaseException):
            images, indices, heard = received
            tell(heard)
            return images, indices
        if isinstance(received, RuntimeError) and "DataLoader worker" in str(received):
            raise _died(next((worker.exitcode for worker in self._workers if worker.exitcode), None)) from received
        raise received

    def _receive(self) -> None:
        """What the thread does."""
        try:
            with _current(self._device):
                with _STARTING:
                    others = set(multiprocessing.active_children())
                    with _script_not_run_again():
                        batches = iter(self._loader)
                    self._workers = tuple(set(multiprocessing.active_children()) - others)
                    _ALIVE.update(self._workers)
                for batch in batches:
                    if not self._hand_over(batch):
                        return
        except BaseException as error:  # whatever it is, somebody waits for it
            self._hand_over(error)

    def _hand_over(self, item: Any) -> bool:
        """Whether anybody takes it."""
        while not self._ended.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_POLL)
                return True
        return False


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

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, list[Told]] | BaseException:
        try:
            with blaming("reading images"):
                return self.images.read(indices), torch.tensor(indices), _heard()
        # Handed over: raised in a worker, torch would wrap its message into the worker's traceback.
        except (Exception, SystemExit) as error:
            return portable(error)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, list[Told]] | BaseException:
        return self.__getitems__([index])


_HEARD: list[Told] = []
"""In a worker, what libraries have warned of since the last batch."""


def _heard() -> list[Told]:
    heard, _HEARD[:] = [*_HEARD], []
    return heard


def _begin(_worker: int) -> None:
    """A terminal and a scheduler signal every process of a run: a worker that died of it would keep the run from finishing its step."""
    gather(_HEARD)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGBUS"):
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch prints something; the run says what it means


def _keep(batch: Any) -> Any:
    """A batch comes out of ``__getitems__`` whole: there is nothing to collate."""
    return batch


def _died(exit_code: int | None) -> RunFailedError:
    if hasattr(signal, "SIGBUS") and exit_code == -signal.SIGBUS:
        return RunFailedError(
            f"shared memory is full: a process that decodes images died of it ({describe_shared_memory()})",
            fix=f"give it more, in Docker with --shm-size=8g, or lower num_workers; {_OWN_PROCESS}; {_GO_ON}",
        )
    return RunFailedError(
        f"a process that decodes images died{_how(exit_code)}, as the system does to one when memory is short",
        fix=f"{_GO_ON}; lower image_size, batch_size or num_workers if it happens again",
    )


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    with suppress(ValueError):
        return f" ({signal.Signals(-exit_code).name})"
    return f" (exit code {exit_code})"


@contextmanager
def _current(device: torch.device) -> Iterator[None]:
    """Each thread has a GPU of its own; pinned memory belongs to it."""
    on_gpu: AbstractContextManager[None] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with on_gpu:
        yield


def _why_not_elsewhere(images: ImageSet) -> str:
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

    Nothing in it is needed: what a worker gets was made sure to come from modules.
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
