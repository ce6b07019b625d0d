"""The image files of a folder, and the classes that its subfolders stand for."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, final, overload

import numpy as np

from sslkit.contract.errors import DataError
from sslkit.contract.progress import counting

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of files that are read."""

OTHER_SUFFIXES = (
    *(".apng", ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dds", ".dib", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif"),
    *(".icns", ".ico", ".j2k", ".jng", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".mpo", ".nef", ".nii", ".orf", ".pbm", ".pcx", ".pfm"),
    *(".pgm", ".pic", ".pict", ".pnm", ".ppm", ".psd", ".qoi", ".raf", ".ras", ".raw", ".rgb", ".rw2", ".sgi", ".svg", ".svs", ".tga"),
    *(".wbmp", ".wdp", ".wmf", ".xbm", ".xcf", ".xpm"),
)
"""Of files that are images as well, and are not read: whoever put them there wants to know."""


class ImageFile(NamedTuple):
    """A file that is named like an image."""

    path: str  # relative to the folder that was searched, with slashes
    num_bytes: int  # -1 where it is unknown, as for a dangling link


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
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return ImageFile(os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]]), int(self.num_bytes[index]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageFiles):
            return NotImplemented
        return self._text == other._text and np.array_equal(self._ends, other._ends) and np.array_equal(self.num_bytes, other.num_bytes)

    def __hash__(self) -> int:
        return hash(self._text)

    def __iter__(self) -> Iterator[ImageFile]:
        return (ImageFile(os.fsdecode(path), num_bytes) for path, num_bytes in self.encoded())

    def encoded(self) -> Iterator[tuple[bytes, int]]:
        """The files in order with their paths as the system has them."""
        ends = self._ends.tolist()
        return ((self._text[start:end], num_bytes) for start, end, num_bytes in zip(ends, ends[1:], self.num_bytes.tolist(), strict=False))


class Content(NamedTuple):
    """What is in a folder, at any depth; everything is sorted."""

    images: ImageFiles
    unread: tuple[str, ...]  # the paths of images of types that are not read
    folders: tuple[str, ...]  # the names of its subfolders, with images or without
    filled: tuple[str, ...]  # the names of those that hold images; the first is empty if there are images beside them

    @property
    def classes(self) -> tuple[str, ...]:
        """The subfolders that hold images, if there are at least two of them and no image is beside them; else none."""
        return self.filled if "" not in self.filled and len(self.filled) > 1 else ()


@final
class FolderScan(dict[Path, Content]):
    """What is in folders, each of which is searched when it is first asked for, and once, however many splits ask.

    What counts is the name: ``SUFFIXES`` in upper or lower case. Files and folders whose names start with a dot are left out. Links
    are followed, except into a folder that they are in, and except links to themselves. What is named like an image and cannot be
    read, or is not a file, is listed: reading it will say so. A folder that cannot be read is a ``DataError``.

    Attributes:
        suffixes: of the files that are read.
    """

    def __init__(self, more_suffixes: Iterable[str] = ()) -> None:
        super().__init__()
        self.suffixes = (*SUFFIXES, *(suffix for suffix in more_suffixes if suffix not in SUFFIXES))

    def holds_images(self, folder: Path) -> bool:
        """Whether there is an image in a folder, at any depth; the search ends at the first."""
        with _readable():
            return any(self._is_read(file.path) for file in _walk(folder, set(), self.suffixes))

    def _is_read(self, name: str) -> bool:
        return name.lower().endswith(self.suffixes)

    def __missing__(self, folder: Path) -> Content:
        images, unread, folders = list[ImageFile](), list[str](), set[str]()
        with counting(f"scanning images in {folder}") as count, _readable():
            for file in _walk(folder, folders, self.suffixes):
                if self._is_read(file.path):
                    images.append(file)
                else:
                    unread.append(file.path)
                count(1)
        filled = {first_folder(file.path) for file in images}
        self[folder] = Content(ImageFiles(sorted(images)), *(tuple(sorted(names)) for names in (unread, folders, filled)))
        return self[folder]


def first_folder(path: str) -> str:
    """``cat/deep/1.png`` -> ``cat``; empty for a file that is in no folder."""
    first, slash, _ = path.partition("/")
    return first if slash else ""


def find_folders(folder: Path) -> tuple[str, ...]:
    """The names of the subfolders that are not hidden, sorted."""
    with _readable():
        return tuple(sorted(entry.name for entry in _entries(str(folder)) if _is_folder(entry)))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read", found=error.strerror, fix="make it readable or move it away") from error


def _walk(root: Path, folders: set[str], suffixes: tuple[str, ...]) -> Iterator[ImageFile]:
    """All images, also of types that are not read, in the order of the disk; ``folders`` gets the names of the subfolders. With each
    folder go the folders that it is in, against links that go round in circles.
    """
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(root), "", frozenset())]
    while waiting:  # not recursive: folders may be nested more deeply than Python's calls
        folder, prefix, above = waiting.pop()
        status = Path(folder).stat()
        if (identity := (status.st_dev, status.st_ino)) in above:
            continue
        for entry in _entries(folder):
            if _is_folder(entry):
                waiting.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
                if not prefix:
                    folders.add(entry.name)
            elif entry.name.lower().endswith(suffixes + OTHER_SUFFIXES):
                try:
                    num_bytes = entry.stat().st_size
                except OSError:
                    num_bytes = -1
                yield ImageFile(prefix + entry.name, num_bytes)


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
    return name.lower().endswith(SUFFIXES + OTHER_SUFFIXES)
