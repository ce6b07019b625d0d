"""What the training loop needs of a loader; it knows no data source. And how it divides an epoch."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Generator, Tensor

from sslkit.contract.images import Batch


class BatchSource(Protocol):
    """Draws batches from one image set onto a device; :class:`sslkit.data.loader.Loader` is one."""

    batch_size: int
    device: torch.device

    @property
    def num_images(self) -> int:
        """How many images there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the images: equal exactly if they are."""
        ...

    def batches(
        self, order: Tensor, *, start: int = 0, sizes: Sequence[int] | None = None, generator: Generator | None = None
    ) -> Iterator[Batch]:
        """One epoch over ``order``, from its batch ``start``.

        Args:
            order: (M,) int64 on the CPU.
            start: how many batches to leave out.
            sizes: images of every batch, those left out too; None: ``batch_size`` each, and the last may be smaller.
            generator: drives the augmentation; None: images as they are.
        """
        ...

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        ...


@lru_cache(maxsize=16)
def training_batches(num_images: int, batch_size: int) -> tuple[int, ...]:
    """The sizes of an epoch's batches in training, where every image counts once.

    All are full but the last. Where fewer images than half a batch would be left for that, the last two batches share theirs evenly: a
    step on a handful weighs as much as any other and its BatchNorm statistics are noise, and one image has none at all. So no batch is
    smaller than half of ``batch_size``, where there are that many images, and an objective may divide it further. The number of steps
    stays the same; only of batches of two, a third image joins the last.
    """
    full, rest = divmod(num_images, batch_size)
    if not full or not 0 < rest < max(2, batch_size / 2):
        return (batch_size,) * full + (rest,) * (rest > 0)
    shared = batch_size + rest
    return (batch_size,) * (full - 1) + ((shared - shared // 2, shared // 2) if shared > 3 else (shared,))
