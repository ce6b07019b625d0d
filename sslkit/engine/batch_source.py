"""What the training loop needs of a loader; it knows no data source."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Generator, Tensor

from sslkit.interfaces import Batch


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

    def batches(self, order: Tensor, *, start: int = 0, generator: Generator | None = None) -> Iterator[Batch]:
        """One epoch over ``order``, from its batch ``start``; ``generator`` drives the augmentation."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        ...
