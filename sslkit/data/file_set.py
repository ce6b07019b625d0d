"""A split whose images stay in their files until they are read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageDecoder, ImageSet, ImageSpec, Window
from sslkit.data.canvas import Canvas, Fit
from sslkit.data.folder_scan import ImageFile, ImageFiles
from sslkit.data.image_file import MAX_PIXELS, decode
from sslkit.data.parallel import map_chunks
from sslkit.data.window import joined

_CHUNK = 64  # files a thread takes at once


@final
class FileSet(ImageSet):
    """Images in files, decoded whenever they are read, in any number of threads and processes.

    The fingerprint covers the files' paths and sizes, not their pixels: reading a million files to tell whether one has changed
    would take as long as an epoch. ``image`` is what they are decoded to, fitted to it as ``fit`` says.
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
        fit: Fit = "crop",
        window: Window | None = None,
        display: tuple[int, ...] = (),
        decoder: ImageDecoder | None = None,
    ) -> None:
        self.image = image
        self.labels = labels
        self.classes = classes
        self.skipped = skipped
        self.notes = notes
        self.folder = folder
        self.files = files if isinstance(files, ImageFiles) else ImageFiles(files)
        self.window = window
        self.display = display
        self.decoder = decoder
        self.max_pixels = max_pixels
        self.canvas = Canvas.of(image, fit=fit, window=window)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Decode some images: (len(indices), C, H, W) uint8; with a window the type that holds the values of all of them."""
        if self.window is not None and indices:
            return joined([self.decode(self.files[index])[None] for index in indices])
        pixels = torch.empty(len(indices), self.image.num_chs, self.image.height, self.image.width, dtype=torch.uint8)
        for row, index in enumerate(indices):
            pixels[row] = self.decode(self.files[index])
        return pixels

    def undecodable(self) -> frozenset[str]:
        """The paths of the files that cannot be decoded. Decodes every file, on all cores."""

        def check(chunk: Sequence[ImageFile]) -> list[str]:
            failed: list[str] = []
            for file in chunk:
                try:
                    self.decode(file)
                except DataError:
                    failed.append(file.path)
            return failed

        chunks = [self.files[start : start + _CHUNK] for start in range(0, len(self), _CHUNK)]
        return frozenset(path for paths in map_chunks(check, chunks, f"checking images in {self.folder}") for path in paths)

    def decode(self, file: ImageFile) -> Tensor:
        """One image: (C, H, W)."""
        return decode(self.folder / file.path, self.canvas, decoder=self.decoder, max_pixels=self.max_pixels, num_bytes=file.num_bytes)

    def _fingerprint(self) -> str:
        """SHA-256 of the list of files and of everything else that a result depends on; not of where the folder is."""
        more = {"fit": (self.canvas.fit, "crop"), "window": (self.window, None), "decoder": (self.decoder, None)}
        said = [f"{name}={value!r}" for name, (value, default) in more.items() if value != default]
        digest = hashlib.sha256(repr((tuple(self.image), self.classes, *said)).encode())
        for path, num_bytes in self.files.encoded():
            digest.update(b"%b\0%d\0" % (path, num_bytes))
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()
