"""One image file -> one uint8 tensor, whatever the file's format, colour mode, bit depth and orientation. What libraries warn of while
they decode it names the file: on its own, ``Corrupt EXIF data`` helps nobody.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from sslkit.contract.errors import DataError

MAX_PIXELS = 178_956_970
"""Where PIL refuses an image as a decompression bomb: 0.7 GB as PIL holds it."""

SKIP = 'set on_error = "skip" in [data]'

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""PIL has many more readers, some of which start programs."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def decode(path: Path, size: int, color: Literal["rgb", "gray"], *, max_pixels: int = MAX_PIXELS, num_bytes: int | None = None) -> Tensor:
    """Decode a file, resize its shorter side to ``size`` (bilinear, antialiased) and crop the central square.

    A file of exactly that size keeps its pixels. The EXIF orientation is applied, transparency is laid over white, 16-bit gray is
    scaled to 8 bits, of several pictures the first is taken, and gray becomes RGB and vice versa (ITU-R BT.601 luma) as ``color`` asks.

    Args:
        path: a JPEG, PNG, WebP, GIF, TIFF or BMP file.
        size: height and width of the result, in pixels.
        color: 3 channels or 1.
        max_pixels: the limit on width times height of the file, checked in its header, before anything is decoded.
        num_bytes: how long the file was when it was found; None: any length.

    Returns:
        (C, size, size) uint8.

    Raises:
        DataError: the file is gone, changed, damaged, too large or of another format; the message names it.
    """
    with open_regular(path, num_bytes) as file, decoding(path):
        try:
            image = open_image(path, file, max_pixels)
            # libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the size is left for our own filter.
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            square = _convert(image, "RGB" if color == "rgb" else "L")
            if square.size != (size, size):
                # This reads the central square alone: an image of 1,000,000 x 1 pixels takes no more memory than it has pixels.
                square = ImageOps.fit(square, (size, size), Image.Resampling.BILINEAR)
        except DataError:
            raise
        except Exception as error:  # on a malformed file PIL raises nearly anything, not only OSError
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path} cannot be decoded ({reason})", fix=f"repair or delete the file, or {SKIP}") from error
    return torch.from_numpy(np.array(square)).reshape(size, size, -1).permute(2, 0, 1).contiguous()


def open_regular(path: Path, num_bytes: int | None = None) -> BinaryIO:
    """Open a file, or what a link leads to, to read it: reading a pipe would wait for ever, and opening a device may move it.

    ``num_bytes`` is the length that it must have, as it had when the folder was scanned; None: any.
    """
    changed = "leave images alone during a run: put the {} back, or start over with --fresh"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise DataError(f"{path} is {kind}, not a file", fix=f"remove or rename it, or {SKIP}")
        if num_bytes is not None and status.st_size != num_bytes:
            found, allowed = f"{status.st_size:,} bytes", f"{num_bytes:,} bytes, as then"
            raise DataError(
                f"{path} has changed since the folder was scanned", found=found, allowed=allowed, fix=changed.format("old file")
            )
        without_waiting = getattr(os, "O_NONBLOCK", 0)  # Windows has none, and no pipes in its folders either
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting))
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(f"{path} is a link to nothing", fix=f"repair or delete it, or {SKIP}") from error
        raise DataError(f"{path} is gone: it was there when the folder was scanned", fix=changed.format("file")) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", fix=f"make it readable, delete it, or {SKIP}") from error


def open_image(path: Path, file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    """Let PIL read the header of an image, whatever the file is called. No pixel is decoded.

    This is ``Image.open(file, formats=...)`` without its limit on pixels, which holds for the whole process: ``max_pixels`` may be
    larger. Where the header is damaged or of another format, PIL raises nearly anything.
    """
    Image.init()  # fills Image.OPEN, once
    start = file.read(16)
    file.seek(0)
    if not start:
        raise ValueError("the file is empty")
    kind = next((kind for kind in _FORMATS if (accepts := Image.OPEN[kind][1]) is not None and accepts(start)), None)
    if kind is None:
        raise ValueError("no JPEG, PNG, WebP, GIF, TIFF or BMP image")
    try:
        image = Image.OPEN[kind][0](file, "")  # of several pictures in one file it shows the first
    except SyntaxError as error:  # PIL's way to say so, with whatever struct or zlib found
        raise ValueError(f"damaged {kind} header") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{path} is too large",
            found=f"{width:,} x {height:,}: {width * height:,} pixels",
            allowed=f"{max_pixels:,} pixels, max_pixels in [data]",
            fix=f"raise max_pixels if you trust the file, delete it, or {SKIP}",
        )
    return image


def _convert(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """To 8-bit RGB or gray."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which none is known to be white")
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip at 255. 65535 = 255 * 257.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels do not fit into 16 bits: {values.min()} to {values.max()}")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


class FileWarning(NamedTuple):
    """A warning as it is sent to another process; the file that was being decoded, and where in a library's code it was raised."""

    file: Path | None
    text: str
    filename: str
    line: int


_file: ContextVar[Path | None] = ContextVar("file", default=None)

_shown: set[str] = set()
"""In this process. Python forgets what it has shown whenever a library changes the filters."""


@contextmanager
def decoding(file: Path | None) -> Iterator[None]:
    """Say which file is being decoded in this thread."""
    before = _file.set(file)
    try:
        yield
    finally:
        _file.reset(before)


@contextmanager
def naming_files() -> Iterator[None]:
    """Let warnings name the file that is being decoded, in whatever thread: each text once, with the first file. For the main thread.

    The filters stay as they are: ``catch_warnings`` in several threads would lose them.
    """
    show_any = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **options: Any) -> None:
        file = _file.get()
        if file is None:
            show_any(message, category, filename, lineno, *rest, **options)
        elif (text := str(message).strip()) not in _shown:
            _shown.add(text)
            show_any(UserWarning(f"{file}: {text}"), UserWarning, filename, lineno, *rest, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = show_any


def gather_warnings(warned: list[FileWarning]) -> None:
    """In a process that decodes for another: note what libraries warn of from now on, instead of printing it."""

    def show(message: Warning | str, _category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        warned.append(FileWarning(_file.get(), str(message), filename, lineno))

    warnings.showwarning = show


def repeat_warnings(warned: Sequence[FileWarning]) -> None:
    """Warn here of what another process has gathered."""
    for warning in warned:
        with naming_files(), decoding(warning.file):
            warnings.warn_explicit(warning.text, UserWarning, warning.filename, warning.line)
