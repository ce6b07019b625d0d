"""Batches of images on the compute device: small data is kept there whole, large data is decoded by workers as it is needed."""

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sslkit.data.augment import augment
from sslkit.errors import DataError, RunFailedError
from sslkit.interfaces import Augment, Batch, ImageSet

_SHARE = 0.25
"""Of a GPU's free memory that one image set may take."""


class Loader:
    """Draws batches from one image set.

    Args:
        images: where they come from.
        batch_size: images a batch; the last one of an epoch may be smaller.
        device: where batches end up.
        options: the augmentation of training batches.
    """

    def __init__(self, images: ImageSet, *, batch_size: int, device: torch.device, options: Augment | None = None) -> None:
        self.images = images
        self.batch_size = batch_size
        self.device = device
        self.options = Augment() if options is None else options
        self._pixels = images.pixels.to(device) if images.pixels is not None and _fits(images.pixels, device) else None

    @property
    def num_images(self) -> int:
        """How many images the set holds."""
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """Of the images: equal exactly if they are."""
        return self.images.fingerprint

    def batches(self, order: Tensor, *, start: int = 0, generator: Generator | None = None) -> Iterator[Batch]:
        """One epoch.

        Args:
            order: (M,) int64 on the CPU, the images of the epoch in order.
            start: how many batches of it to leave out (they were seen before an interruption).
            generator: on the device, drives the augmentation; None: images as they are.
        """
        chunks = order.split(self.batch_size)[start:]
        for batch in self._decoded(chunks) if self._pixels is None else self._resident(chunks, self._pixels):
            yield batch if generator is None else batch._replace(images=augment(batch.images, self.options, generator))

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        return self.batches(torch.arange(self.num_images))

    def _resident(self, chunks: Sequence[Tensor], pixels: Tensor) -> Iterator[Batch]:
        if not chunks:
            return
        order = torch.cat(tuple(chunks)).to(self.device)  # sent once: a GPU that is sent each batch's indices waits each time
        for indices in order.split(self.batch_size):
            yield Batch(pixels[indices], indices)

    def _decoded(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """Workers only decode; what is random happens here, in order, so their number changes nothing."""
        loader = DataLoader(
            _Reader(self.images),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=min(8, usable_cores()),
            collate_fn=_keep,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=self.device.type == "cuda",
            generator=Generator(),  # torch seeds workers from the global generator otherwise: a resumed epoch would draw once more
        )
        for decoded in _from_workers(loader):
            if isinstance(decoded, DataError):
                raise decoded
            # Of pinned memory alone: torch keeps that from being used again before the copy is done.
            images, indices = (tensor.to(self.device, non_blocking=loader.pin_memory) for tensor in decoded)
            yield Batch(images, indices)


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether pixels leave a GPU most of its free memory. Batches are the same, kept there or sent as they are needed."""
    if device.type != "cuda":
        return True
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, from earlier stages
    return pixels.nbytes <= (torch.cuda.mem_get_info(device)[0] + unused) * _SHARE


def usable_cores() -> int:
    """Those that this process may use: a cluster often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _from_workers(loader: DataLoader) -> Iterator[Any]:
    """What the workers hand over.

    Raises:
        RunFailedError: one of them died.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunFailedError(
            "a process that decodes images died, as the system does to one when memory is short",
            fix="the same command goes on from the last checkpoint; lower image_size or batch_size if it happens again",
        ) from error


class _Reader(TorchDataset):
    """An image set as torch's loader wants it: a whole batch a call."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | DataError:
        try:
            return self.images.read(indices), torch.tensor(indices)
        except DataError as error:  # handed over: raised in a worker, torch would wrap its message into the worker's traceback
            return error

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | DataError:
        return self.__getitems__([index])


def _leave_signals_to_the_run(_worker: int) -> None:
    """A terminal and a scheduler signal every process of a run: a worker that died of it would keep the run from finishing its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _keep(batch: Any) -> Any:
    """A batch comes out of ``__getitems__`` whole: there is nothing to collate."""
    return batch
