"""A data set opened for a run: every split is loaded once, and small ones are decoded once and stay in memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from sslkit.interfaces import Dataset, ImageSet, ImageSpec, Split

MAX_RESIDENT_BYTES = 2 * 1024**3
"""Image sets up to this size are kept in memory: CIFAR-10 takes 0.15 GiB. Larger ones are decoded as they are needed."""

_CHUNK = 256


class OpenedDataset(Dataset):
    """Wraps a data set so that stages share what one of them has loaded.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._splits: dict[Split, ImageSet | None] = {}

    def image(self) -> ImageSpec:
        """See :class:`Dataset`."""
        return self._dataset.image()

    def available(self) -> bool:
        """See :class:`Dataset`."""
        return self._dataset.available()

    def load(self, split: Split) -> ImageSet | None:
        """See :class:`Dataset`; the second call costs nothing."""
        if split not in self._splits:
            images = self._dataset.load(split)
            self._splits[split] = images if images is None or images.pixels is not None else _ResidentSet(images)
        return self._splits[split]


class _ResidentSet(ImageSet):
    """Images that are decoded all at once when their pixels are first asked for, if they are small."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self.image = images.image
        self.labels = images.labels
        self.classes = images.classes
        self.fingerprint = images.fingerprint
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int]) -> Tensor:
        """See :class:`ImageSet`; never decodes what is in memory, nor everything for the sake of a few."""
        decoded: Tensor | None = self.__dict__.get("pixels")
        return self._images.read(indices) if decoded is None else decoded[list(indices)]

    @cached_property
    def pixels(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """See :class:`ImageSet`."""
        size = len(self) * self.image.num_chs * self.image.height * self.image.width
        return _decode_all(self._images) if size <= MAX_RESIDENT_BYTES else None


def _decode_all(images: ImageSet) -> Tensor:
    """(N, C, H, W) uint8; the codecs release the interpreter lock, so threads share the work."""
    chunks = torch.arange(len(images)).split(_CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.cat(list(pool.map(lambda chunk: images.read(chunk.tolist()), chunks)))
