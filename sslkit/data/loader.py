"""Batches of images on the compute device: small data is kept there whole, large data is decoded by workers as it is needed."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Generator, Tensor

from sslkit.contract.blame import blaming
from sslkit.contract.images import Augment, Batch, ImageSet
from sslkit.data.augment import augment
from sslkit.data.library_warnings import naming_files
from sslkit.data.workers import choose_num_workers, decoded_by_workers

_SHARE = 0.25
"""Of a GPU's free memory that one image set may take."""


class Loader:
    """Draws batches from one image set.

    Args:
        images: where they come from.
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
        self._pixels = images.pixels.to(device) if images.pixels is not None and _fits(images.pixels, device) else None

    @property
    def num_images(self) -> int:
        """How many images the set holds."""
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """Of the images: equal exactly if they are."""
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
        for batch in self._decoded(chunks) if self._pixels is None else self._resident(chunks, self._pixels):
            yield batch if generator is None else batch._replace(images=augment(batch.images, self.options, generator))

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        return self.batches(torch.arange(self.num_images))

    def _resident(self, chunks: Sequence[Tensor], pixels: Tensor) -> Iterator[Batch]:
        if not chunks:
            return
        order = torch.cat(tuple(chunks)).to(self.device)  # sent once: a GPU that is sent each batch's indices waits each time
        for indices in order.split([len(chunk) for chunk in chunks]):
            yield Batch(pixels[indices], indices)

    def _decoded(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """Workers only decode; what is random happens here, in order, so their number changes nothing."""
        num_workers = self._num_workers
        pinned = self.device.type == "cuda" and num_workers > 0
        found = decoded_by_workers(self.images, chunks, num_workers=num_workers, device=self.device) if num_workers else self._read(chunks)
        for decoded in found:
            # Of pinned memory alone: torch keeps that from being used again before the copy is done.
            images, indices = (tensor.to(self.device, non_blocking=pinned) for tensor in decoded)
            yield Batch(images, indices)

    def _read(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            with blaming("reading images"), naming_files():
                images = self.images.read(chunk.tolist())
            yield images, chunk

    @cached_property
    def _num_workers(self) -> int:
        return choose_num_workers(self.images, self.batch_size, self._wanted)


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether pixels leave a GPU most of its free memory. Batches are the same, kept there or sent as they are needed."""
    if device.type != "cuda":
        return True
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, from earlier stages
    return pixels.nbytes <= (torch.cuda.mem_get_info(device)[0] + unused) * _SHARE
