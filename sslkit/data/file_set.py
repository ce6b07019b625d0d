"""A split whose images stay in their files until they are read."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from sslkit.data.decode import decode
from sslkit.data.image_files import ImageFile
from sslkit.errors import DataError
from sslkit.interfaces import ImageSet, ImageSpec

_CHUNK = 64  # files a thread takes at once


@final
class FileSet(ImageSet):
    """Images in files, decoded whenever they are read, in any number of threads and processes.

    The fingerprint covers the files' paths and sizes, not their pixels: reading a million files to tell whether one has changed
    would take as long as an epoch.

    Args:
        folder: what the files' paths are relative to.
        files: the images, in order.
        image: what they are decoded to, a square, RGB or gray.
        labels: (len(files),) int64, or None.
        classes: the class names, in the order of the labels.
        skipped: files that were left out.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[ImageFile],
        image: ImageSpec,
        *,
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.image = image
        self.labels = labels
        self.classes = classes
        self.skipped = skipped
        self.fingerprint = _fingerprint(files, image, labels, classes)
        self._folder = folder
        # One block of memory: touching a million Python strings would copy them into every forked worker.
        self._paths = np.array([os.fsencode(file.path) for file in files], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Decode some images: (len(indices), C, H, W) uint8."""
        pixels = torch.empty(len(indices), self.image.num_chs, self.image.height, self.image.width, dtype=torch.uint8)
        for row, index in enumerate(indices):
            pixels[row] = _decode(self._folder / os.fsdecode(self._paths[index]), self.image)
        return pixels


def undecodable(folder: Path, files: Sequence[ImageFile], image: ImageSpec) -> set[str]:
    """The paths of the files that cannot be decoded. Decodes every file, on all cores.

    Args:
        folder: what the files' paths are relative to.
        files: what to check.
        image: what they are to be decoded to.
    """

    def check(chunk: Sequence[ImageFile]) -> list[str]:
        return [file.path for file in chunk if not _is_decodable(folder / file.path, image)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL's decoders release the interpreter lock
        chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
        return {path for paths in pool.map(check, chunks) for path in paths}


def _decode(path: Path, image: ImageSpec) -> Tensor:
    color: Literal["rgb", "gray"] = "rgb" if image.color == "rgb" else "gray"
    return decode(path, image.height, color)


def _is_decodable(path: Path, image: ImageSpec) -> bool:
    try:
        _decode(path, image)
    except DataError:
        return False
    return True


def _fingerprint(files: Sequence[ImageFile], image: ImageSpec, labels: Tensor | None, classes: tuple[str, ...]) -> str:
    """SHA-256 of the list of files and of everything else that a result depends on; not of where the folder is."""
    digest = hashlib.sha256(repr((tuple(image), classes)).encode())
    for file in files:
        digest.update(os.fsencode(f"{file.path}\0{file.num_bytes}\0"))
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
