"""Image sets that are small enough to be decoded once and kept in memory."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageSet
from sslkit.contract.misspelling import refuse_misspelt_attributes
from sslkit.data.checksum import checksum
from sslkit.data.parallel import map_chunks
from sslkit.data.validation import valid_classes, valid_fingerprint, valid_labels, valid_paths, valid_pixels, valid_spec

MAX_RESIDENT_BYTES = 2 * 1024**3
"""Image sets up to this size are kept in memory: CIFAR-10 takes 0.15 GiB. Larger ones are decoded as they are needed."""

_CHUNK = 256


class ResidentSet(ImageSet):
    """Images whose every promise is checked when it is kept, and that are decoded all at once when their pixels are first asked for, if
    they are small. It can tell whether somebody to whom they were lent has changed anything.

    Args:
        source: the images as the data set gave them.
        where: what gave them, for messages.
        labeled: keep the labels, if there are any.

    Attributes:
        source: as given.

    Raises:
        DataError: they are not what :class:`ImageSet` says.
        PluginError: an attribute of theirs is misspelt.
    """

    def __init__(self, source: ImageSet, where: str, *, labeled: bool = True) -> None:
        self.source = source
        self._where = where
        refuse_misspelt_attributes(source, ImageSet)
        try:
            self._num_images = len(source)
        except (TypeError, ValueError, OverflowError) as error:  # Python's own rules
            raise DataError(f"{where}: len() must be the number of images ({error})") from error
        if self._num_images < 1:
            raise DataError(f"{where}: there are no images")
        self.image = valid_spec(getattr(source, "image", None), where)
        if labeled and source.labels is not None:
            self.classes = valid_classes(source.classes, where)
            self.labels = valid_labels(source.labels, self._num_images, len(self.classes), where)
        self.fingerprint = valid_fingerprint(source, where)
        self.skipped = valid_paths(source.skipped, "skipped", where)
        self.notes = valid_paths(source.notes, "notes", where)
        self._lent = self._facts()

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Sequence[int]) -> Tensor:
        """See :class:`ImageSet`; never decodes what is in memory, nor everything for the sake of a few.

        Raises:
            DataError: what the data set's own ``read`` returns is not what it promises.
        """
        decoded: Tensor | None = self.__dict__.get("pixels")
        if decoded is not None:
            return decoded[list(indices)]
        return valid_pixels(
            self.source.read(indices), len(indices), self.image, f"{self._where}: what {type(self.source).__name__}.read returns"
        )

    @cached_property
    def pixels(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """See :class:`ImageSet`."""
        pixels = self.source.pixels
        size = len(self) * self.image.num_chs * self.image.height * self.image.width
        if pixels is not None:
            pixels = valid_pixels(pixels, len(self), self.image, f"{self._where}: pixels")
        elif size <= MAX_RESIDENT_BYTES:
            chunks = torch.arange(len(self)).split(_CHUNK)
            pixels = torch.cat(map_chunks(lambda chunk: self.read(chunk.tolist()), chunks, f"decoding {len(self):,} images"))
        self._lent["pixels"] = _sum(pixels)
        return pixels

    def relabel(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        """Count the classes in another order: (N,) int64 labels, and their names."""
        self.labels, self.classes = labels, classes
        self._lent |= self._facts()

    def changes(self) -> Iterator[str]:
        """Name what is no longer as it was: ``labels``, ``classes``, ``pixels`` ..."""
        facts = self._facts()
        if "pixels" in self._lent:
            facts["pixels"] = _sum(self.__dict__.get("pixels"))
        yield from (name for name, fact in facts.items() if fact != self._lent[name])

    def _facts(self) -> dict[str, object]:
        """All but the pixels, which may not be decoded yet."""
        facts = {name: getattr(self, name) for name in ("image", "classes", "fingerprint", "skipped", "notes")}
        return {"labels": _sum(self.labels), **facts}


def _sum(value: object) -> object:
    return checksum(value) if isinstance(value, Tensor) else value
