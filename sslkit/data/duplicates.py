"""Test images that are training images too: results on them flatter."""

import hashlib
from collections.abc import Sequence, Set
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageSet
from sslkit.data.file_set import FileSet
from sslkit.data.image_file import open_regular
from sslkit.data.parallel import map_chunks
from sslkit.data.window import as_float

_COMPARING = "comparing test images with training images"
_CHUNK = 256
_HEAD = 4096  # bytes; nearly every pair of files of one size differs in them

Key = tuple[int, bytes]  # a file's size and the hash of its beginning or of all of it


class Duplicates(NamedTuple):
    """Test images that are training images too: how many, and a few of them."""

    num_test_images: int
    examples: tuple[tuple[str, str], ...]  # each with the first training image that it equals: files where there are any, else indices
    same: Literal["pixels", "bytes"]  # what was compared

    def describe(self) -> str:
        """What they have in common, with an example: ``same pixels, for example cat/7.png = dog/1.png``."""
        return f"same {self.same}, for example {' = '.join(self.examples[0])}" if self.examples else f"same {self.same}"


def find_duplicates(train: ImageSet, test: ImageSet) -> Duplicates | None:
    """Find the test images that are training images too.

    Images in memory are compared by their pixels, as they were decoded. Images in files are compared byte by byte, by hash: of those
    that have the size of another one the beginning is read, and all of it where that is the same too.

    None: there is no quick way to tell, because the images are neither in memory nor in files.
    """
    train_keys: Sequence[object]
    test_keys: Sequence[object]
    train_files, test_files = (getattr(images, "source", images) for images in (train, test))  # what the cache has opened
    mine, its = (getattr(images, "stored", images).pixels for images in (train, test))
    if mine is not None and its is not None:
        mine, its = (mine, its) if mine.dtype == its.dtype else (as_float(mine), as_float(its))
        same, train_keys, test_keys = "pixels", _pixel_hashes(mine), _pixel_hashes(its)
    elif isinstance(train_files, FileSet) and isinstance(test_files, FileSet):
        same, (train_keys, test_keys) = "bytes", _file_keys(train_files, test_files)
    else:
        return None
    wanted = set(test_keys) - {None}
    first: dict[object, int] = {}
    for index, key in enumerate(train_keys):
        if key in wanted:
            first.setdefault(key, index)
    found = [(index, first[key]) for index, key in enumerate(test_keys) if key in first]
    examples = tuple((_name(test_files, index), _name(train_files, twin)) for index, twin in found[:3])
    return Duplicates(len(found), examples, same)


def _name(images: ImageSet, index: int) -> str:
    return str(images.folder / images.files[index].path) if isinstance(images, FileSet) else f"image {index:,}"


def _pixel_hashes(pixels: Tensor) -> list[bytes]:
    """(N, C, H, W) -> N hashes."""
    return [digest for digests in map_chunks(pixel_hashes, pixels.split(_CHUNK), _COMPARING) for digest in digests]


def pixel_hashes(pixels: Tensor) -> list[bytes]:
    """(N, C, H, W) of any one type -> N hashes, equal where the pixels are."""
    rows: np.ndarray = pixels.flatten(1).contiguous().numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def _file_keys(train: FileSet, test: FileSet) -> tuple[list[Key | None], list[Key | None]]:
    """A key for each file of either set; None where no file of the other set is the same."""
    train_keys, test_keys = ([(size, b"") if size > 0 else None for size in images.files.num_bytes.tolist()] for images in (train, test))
    for num_bytes in (_HEAD, -1):
        shared = {*train_keys} & {*test_keys} - {None}
        train_keys, test_keys = _refine(train, train_keys, shared, num_bytes), _refine(test, test_keys, shared, num_bytes)
    return train_keys, test_keys


def _refine(images: FileSet, keys: Sequence[Key | None], shared: Set[Key | None], num_bytes: int) -> list[Key | None]:
    """Distinguish files with ``shared`` keys by their first ``num_bytes``, -1: all of them. Other files get None, and so do files that
    cannot be read: decoding them will raise the error.
    """

    def refined(chunk: Sequence[int]) -> list[tuple[int, Key]]:
        found = []
        for index in chunk:
            path, size = images.files[index]
            with suppress(DataError, OSError), open_regular(images.folder / path) as file:
                found.append((index, (size, hashlib.blake2b(file.read(num_bytes), digest_size=16).digest())))
        return found

    indices = [index for index, key in enumerate(keys) if key in shared]
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    by_index = {index: key for pairs in map_chunks(refined, chunks, _COMPARING) for index, key in pairs}
    return [by_index.get(index) for index in range(len(keys))]
