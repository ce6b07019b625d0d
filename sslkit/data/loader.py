"""Batches of images on the compute device: small data is kept there whole, large data is decoded by workers as it is needed."""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from sslkit.contract.blame import blaming
from sslkit.contract.events import warn
from sslkit.contract.images import Augment, Batch, ImageSet
from sslkit.data.augment import augment
from sslkit.data.cache import as_stored, max_bytes
from sslkit.data.image_file import naming_files
from sslkit.data.window import in_window, take
from sslkit.data.workers import Decoders, describe_shared_memory, end_idle, num_fitting_workers, why_not_elsewhere

_num_workers: ContextVar[int | Literal["auto"]] = ContextVar("num_workers", default="auto")


@contextmanager
def decoding_with(num_workers: int | Literal["auto"]) -> Iterator[None]:
    """In this block, every loader without a number of its own uses so many workers, ``auto``: as many as fit the machine; they end with it."""
    before = _num_workers.set(num_workers)
    try:
        yield
    finally:
        _num_workers.reset(before)
        end_idle()


def usable_cores() -> int:
    """Those that this process may use: a cluster often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loader:
    """Draws batches from one image set. Workers that decode them stay from one epoch to the next.

    Args:
        images: where they come from. What they hold as it is stored is sent to the device, and scaled to its window there.
        batch_size: images a batch, where nothing else is said; the last one may be smaller.
        device: where batches end up.
        options: the augmentation of training batches.
        num_workers: processes that decode what is not kept in memory, 0: this one; None: as the stage says, else one a core.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        device: torch.device,
        options: Augment | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.device = device
        self.options = Augment() if options is None else options
        self._wanted = num_workers
        self._decoders: Decoders | None = None
        self._stored = as_stored(images)
        pixels = self._stored.pixels
        self._pixels = pixels.to(device) if pixels is not None and _fits(pixels, device) else None

    @property
    def num_images(self) -> int:
        """How many images the set holds."""
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """That of the images: equal exactly if they are."""
        return self.images.fingerprint

    def batches(
        self, order: Tensor, *, start: int = 0, sizes: Sequence[int] | None = None, generator: Generator | None = None
    ) -> Iterator[Batch]:
        """One epoch.

        Args:
            order: (M,) int64 on the CPU, the images of the epoch in order.
            start: how many batches of it to leave out (they were seen before an interruption).
            sizes: images of every batch, those left out too; None: ``batch_size`` each, and the last may be smaller.
            generator: on the device, drives the augmentation; None: images as they are.
        """
        chunks = order.split(self.batch_size if sizes is None else list(sizes))[start:]
        for images, indices in self._decoded(chunks) if self._pixels is None else self._resident(chunks, self._pixels):
            batch = Batch(in_window(images, self._stored.window), indices)
            yield batch if generator is None else batch._replace(images=augment(batch.images, self.options, generator))

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        return self.batches(torch.arange(self.num_images))

    def _resident(self, chunks: Sequence[Tensor], pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if not chunks:
            return
        order = torch.cat(tuple(chunks)).to(self.device)  # sent once: a GPU that is sent each batch's indices waits each time
        for indices in order.split([len(chunk) for chunk in chunks]):
            yield take(pixels, indices), indices

    def _decoded(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Workers only decode; what is random happens here, in order, so their number changes nothing."""
        pinned = self.device.type == "cuda" and self._num_workers > 0
        for decoded in self._decoded_by_workers(chunks) if self._num_workers else self._read(chunks):
            # Of pinned memory alone: torch keeps that from being used again before the copy is done.
            images, indices = (tensor.to(self.device, non_blocking=pinned) for tensor in decoded)
            yield images, indices

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            with blaming("reading images"), naming_files():
                images = self._stored.read(chunk.tolist())
            yield images, chunk

    def _decoded_by_workers(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        decoders, self._decoders = self._decoders, None  # a second pass at the same time has workers of its own
        if decoders is None or decoders.ended.is_set():
            decoders = Decoders(self._stored, num_workers=self._num_workers, device=self.device)
            weakref.finalize(self, decoders.end)
        try:
            yield from decoders.decode(chunks)
        finally:
            self._decoders = decoders

    @cached_property
    def _num_workers(self) -> int:
        return choose_num_workers(self._stored, self.batch_size, self._wanted)


def choose_num_workers(images: ImageSet, batch_size: int, wanted: int | None) -> int:
    """How many workers decode, 0 for this process: as many as are ``wanted`` (None: what the stage says, else one per core, 8 at most),
    as far as shared memory holds their batches.
    """
    given = _num_workers.get() if wanted is None else wanted
    number = min(8, usable_cores()) if given == "auto" else given
    if number and (why := why_not_elsewhere(images)):
        warn(f"images are decoded in the run's own process, which is slower: {why}")
        return 0
    batch_bytes = min(batch_size, len(images)) * max_bytes(images)
    fitting = num_fitting_workers(batch_bytes)
    if number <= fitting:
        return number
    where = f"{fitting} process{'es' * (fitting > 1)} instead of {number}" if fitting else "the run's own process"
    warn(
        f"images are decoded by {where}, which is slower, because shared memory is small ({describe_shared_memory()}, and a batch takes"
        f" {batch_bytes / 2**20:,.0f} MiB): give it more, in Docker with --shm-size=8g; num_workers = {fitting} says that this is meant"
    )
    return fitting


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether pixels leave a GPU three quarters of its free memory. Batches are the same, kept there or sent as they are needed."""
    if device.type != "cuda":
        return True
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, from earlier stages
    return pixels.nbytes <= (torch.cuda.mem_get_info(device)[0] + unused) / 4
