"""Image sets that are small enough to be decoded once and kept in memory."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sslkit.data.checksum import checksum
from sslkit.data.chunk_map import map_chunks
from sslkit.interfaces import ImageSet

MAX_RESIDENT_BYTES = 2 * 1024**3
"""Image sets up to this size are kept in memory: CIFAR-10 takes 0.15 GiB. Larger ones are decoded as they are needed."""

_CHUNK = 256


class ResidentSet(ImageSet):
    """Images that are decoded all at once when their pixels are first asked for, if they are small. It can tell whether somebody to
    whom they were lent has changed anything.

    Attributes:
        source: the images as the data set gave them.
    """

    def __init__(self, source: ImageSet) -> None:
        self.source = source
        self.image = source.image
        self.labels = None if source.labels is None else source.labels.clone()  # the data set's own are not for us to lend
        self.classes = source.classes
        self.fingerprint = source.fingerprint
        self.skipped = source.skipped
        self._loaded = self._facts()

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> Tensor:
        """See :class:`ImageSet`; never decodes what is in memory, nor everything for the sake of a few."""
        decoded: Tensor | None = self.__dict__.get("pixels")
        return self.source.read(indices) if decoded is None else decoded[list(indices)]

    @cached_property
    def pixels(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """See :class:`ImageSet`."""
        pixels = self.source.pixels
        size = len(self) * self.image.num_chs * self.image.height * self.image.width
        if pixels is None and size <= MAX_RESIDENT_BYTES:
            pixels = _decode_all(self.source)
        self._loaded["pixels"] = _sum(pixels)
        return pixels

    def changes(self) -> Iterator[str]:
        """Name what is no longer as it was loaded: ``labels``, ``classes``, ``pixels`` ..."""
        facts = self._facts()
        if "pixels" in self._loaded:
            facts["pixels"] = _sum(self.__dict__.get("pixels"))
        yield from (name for name, fact in facts.items() if fact != self._loaded[name])

    def _facts(self) -> dict[str, object]:
        """All but the pixels, which may not be decoded yet."""
        facts = {name: getattr(self, name) for name in ("image", "classes", "fingerprint", "skipped")}
        return {"labels": _sum(self.labels), **facts}


def _sum(value: object) -> object:
    return checksum(value) if isinstance(value, Tensor) else value


def _decode_all(images: ImageSet) -> Tensor:
    """(N, C, H, W) uint8."""
    chunks = torch.arange(len(images)).split(_CHUNK)
    return torch.cat(map_chunks(lambda chunk: images.read(chunk.tolist()), chunks, f"decoding {len(images):,} images"))
