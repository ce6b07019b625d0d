"""The image files of a folder, and the classes that its subfolders stand for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sslkit.errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFile(NamedTuple):
    """A file that is named like an image.

    Attributes:
        path: relative to the folder that was searched, with slashes.
        num_bytes: its size; -1 for a link to nothing.
    """

    path: str
    num_bytes: int


def find_images(folder: Path) -> list[ImageFile]:
    """All images in a folder, at any depth, sorted by path.

    What counts is the name: ``SUFFIXES`` in upper or lower case. Files and folders whose names start with a dot are left out. Links
    are followed, except into a folder that they are in.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        return sorted(_walk(folder, "", frozenset()))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read", found=error.strerror) from error


def find_classes(folder: Path) -> tuple[str, ...]:
    """The classes in a folder, sorted; empty if it has none.

    Its subfolders are classes if at least two of them hold images, at any depth, and no image lies beside them.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        if any(_is_image(entry.name) for entry in _entries(folder) if not entry.is_dir()):
            return ()
        names = sorted(entry.name for entry in _entries(folder) if entry.is_dir() and any(_walk(Path(entry.path), "", frozenset())))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read", found=error.strerror) from error
    return tuple(names) if len(names) > 1 else ()


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[ImageFile]:
    """Depth first, in the order of the disk. ``above``: the folders that this one is in, against links that go round in circles."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity})
        elif _is_image(entry.name):
            yield ImageFile(prefix + entry.name, _num_bytes(entry))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, without what is hidden. ``scandir`` knows files from folders without asking the disk again."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _num_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return -1  # decoding it will say so
