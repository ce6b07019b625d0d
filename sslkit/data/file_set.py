"""A split whose images stay in their files until they are read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageSet, ImageSpec
from sslkit.data.folder_scan import ImageFile, ImageFiles
from sslkit.data.image_file import MAX_PIXELS, decode
from sslkit.data.parallel import map_chunks

_CHUNK = 64  # files a thread takes at once


@final
class FileSet(ImageSet):
    """Images in files, decoded whenever they are read, in any number of threads and processes.

    The fingerprint covers the files' paths and sizes, not their pixels: reading a million files to tell whether one has changed
    would take as long as an epoch. ``image`` is what they are decoded to: a square, RGB or gray.
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
        notes: tuple[str, ...] = (),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.image = image
        self.labels = labels
        self.classes = classes
        self.skipped = skipped
        self.notes = notes
        self.folder = folder
        self.files = files if isinstance(files, ImageFiles) else ImageFiles(files)
        self.fingerprint = _fingerprint(self.files, image, labels, classes)
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Decode some images: (len(indices), C, H, W) uint8."""
        pixels = torch.empty(len(indices), self.image.num_chs, self.image.height, self.image.width, dtype=torch.uint8)
        for row, index in enumerate(indices):
            pixels[row] = self._decode(self.files[index])
        return pixels

    def undecodable(self) -> frozenset[str]:
        """The paths of the files that cannot be decoded. Decodes every file, on all cores."""

        def check(chunk: Sequence[ImageFile]) -> list[str]:
            failed: list[str] = []
            for file in chunk:
                try:
                    self._decode(file)
                except DataError:
                    failed.append(file.path)
            return failed

        chunks = [self.files[start : start + _CHUNK] for start in range(0, len(self), _CHUNK)]
        return frozenset(path for paths in map_chunks(check, chunks, f"checking images in {self.folder}") for path in paths)

    def _decode(self, file: ImageFile) -> Tensor:
        color: Literal["rgb", "gray"] = "rgb" if self.image.color == "rgb" else "gray"
        return decode(self.folder / file.path, self.image.height, color, max_pixels=self._max_pixels, num_bytes=file.num_bytes)


def _fingerprint(files: ImageFiles, image: ImageSpec, labels: Tensor | None, classes: tuple[str, ...]) -> str:
    """SHA-256 of the list of files and of everything else that a result depends on; not of where the folder is."""
    digest = hashlib.sha256(repr((tuple(image), classes)).encode())
    for path, num_bytes in files.encoded():
        digest.update(b"%b\0%d\0" % (path, num_bytes))
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
