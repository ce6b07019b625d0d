"""The image files of a folder, and the classes that its subfolders stand for."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, final, overload

import numpy as np

from sslkit.errors import DataError
from sslkit.progress import counting

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFile(NamedTuple):
    """A file that is named like an image.

    Attributes:
        path: relative to the folder that was searched, with slashes.
        num_bytes: its size; -1 if that cannot be told, as of a link to nothing.
    """

    path: str
    num_bytes: int


@final
class ImageFiles(Sequence[ImageFile]):
    """A list of files in a few blocks of memory: a million Python strings would take 200 MB, and be copied into every forked worker."""

    def __init__(self, files: Iterable[ImageFile]) -> None:
        files = list(files)
        paths = [os.fsencode(file.path) for file in files]
        self._text = b"".join(paths)
        self._ends = np.cumsum([0, *map(len, paths)])
        self.num_bytes = np.array([file.num_bytes for file in files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.num_bytes)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageFile]: ...
    def __getitem__(self, index: int | slice) -> ImageFile | list[ImageFile]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return ImageFile(os.fsdecode(self._text[self._ends[place] : self._ends[place + 1]]), int(self.num_bytes[place]))

    def __iter__(self) -> Iterator[ImageFile]:
        return (ImageFile(os.fsdecode(path), num_bytes) for path, num_bytes in self.encoded())

    def encoded(self) -> Iterator[tuple[bytes, int]]:
        """The files in order with their paths as the system has them."""
        ends = self._ends.tolist()
        return ((self._text[start:end], num_bytes) for start, end, num_bytes in zip(ends, ends[1:], self.num_bytes.tolist(), strict=False))


@final
class FolderScan:
    """What is in folders, each of which is read once, however many splits ask for it."""

    def __init__(self) -> None:
        self._found: dict[Path, tuple[ImageFiles, tuple[str, ...]]] = {}

    def images(self, folder: Path) -> ImageFiles:
        """See :func:`find_images`."""
        return self._read(folder)[0]

    def subfolders(self, folder: Path) -> tuple[str, ...]:
        """The names of the subfolders that hold images, at any depth, sorted; the first is empty if images lie beside them."""
        return self._read(folder)[1]

    def classes(self, folder: Path) -> tuple[str, ...]:
        """The subfolders, if at least two of them hold images and no image lies beside them; else none."""
        names = self.subfolders(folder)
        return names if "" not in names and len(names) > 1 else ()

    def _read(self, folder: Path) -> tuple[ImageFiles, tuple[str, ...]]:
        if folder not in self._found:
            files = find_images(folder)
            parts = (file.path.partition("/") for file in files)
            self._found[folder] = ImageFiles(files), tuple(sorted({first if slash else "" for first, slash, _ in parts}))
        return self._found[folder]


def find_images(folder: Path) -> list[ImageFile]:
    """All images in a folder, at any depth, sorted by path.

    What counts is the name: ``SUFFIXES`` in upper or lower case. Files and folders whose names start with a dot are left out. Links
    are followed, except into a folder that they are in, and except links to themselves. What is named like an image and cannot be
    read, or is no file, is listed: reading it will say so.

    Raises:
        DataError: a folder cannot be read.
    """
    with counting(f"scanning images in {folder}") as count:
        try:
            return sorted(_walk(folder, count))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read", found=error.strerror, fix="make it readable or move it away") from error


def _walk(root: Path, count: Callable[[int], None]) -> Iterator[ImageFile]:
    """In the order of the disk. With each folder go the folders that it is in, against links that go round in circles."""
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(root), "", frozenset())]
    while waiting:  # not recursive: folders may be nested more deeply than Python's calls
        folder, prefix, above = waiting.pop()
        status = Path(folder).stat()
        if (identity := (status.st_dev, status.st_ino)) in above:
            continue
        for entry in _entries(folder):
            if _is_folder(entry):
                waiting.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
            elif _is_image(entry.name):
                count(1)
                yield ImageFile(prefix + entry.name, _num_bytes(entry))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, without what is hidden. ``scandir`` knows files from folders without asking the disk again."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads to itself, or to where we may not look: only what may be a folder full of images matters
        if error.errno == errno.ELOOP or _is_image(entry.name):
            return False
        raise


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _num_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1
