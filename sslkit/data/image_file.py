"""One image file -> one tensor, whatever the file's format, colour mode, bit depth and orientation. What libraries warn of while
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
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageDecoder, ImageHeader
from sslkit.data.canvas import Canvas, UnfitError

MAX_PIXELS = 178_956_970
"""Where PIL refuses an image as a decompression bomb: 0.7 GB as PIL holds it."""

SKIP = 'set on_error = "skip" in [data]'

_SAMPLES = 277  # the tag of a TIFF file that counts its channels

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""PIL has many more readers, some of which start programs."""

_DECODER = 'set decoder = "tiff" in [data], which needs tifffile: pip install "sslkit[tiff]"'

_OF_ANY_BANDS = f'where it has more than 3 channels set color = "bands", and {_DECODER}'

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def decode(
    path: Path, canvas: Canvas, *, decoder: ImageDecoder | None = None, max_pixels: int = MAX_PIXELS, num_bytes: int | None = None
) -> Tensor:
    """Decode a file and fit it to the canvas.

    A file of exactly that size keeps its pixels. The EXIF orientation is applied, and of several pictures the first is taken. Eight-bit
    pictures are resized by PIL (bilinear, antialiased); transparency is laid over white, and gray becomes RGB and vice versa (ITU-R BT.601
    luma) as the canvas asks. Images of other types keep their values, and need a window.

    Args:
        path: a JPEG, PNG, WebP, GIF, TIFF or BMP file, or one that the decoder reads.
        canvas: size and channels of the result.
        decoder: reads the files with its suffixes, in place of PIL.
        max_pixels: the limit on width times height of the file, checked in its header, before anything is decoded.
        num_bytes: how long the file was when it was found; None: any length.

    Returns:
        (C, H, W) uint8; with a window uint8, uint16 or float32.

    Raises:
        DataError: the file is gone, changed, damaged, too large or of another format; the message names it.
    """
    with open_regular(path, num_bytes) as file, _explaining(path):
        if decoder is not None and path.suffix.lower() in decoder.suffixes:
            header = decoder.header(file)
            _check_size(path, header, max_pixels)
            canvas.check(header.num_chs, header.dtype)
            file.seek(0)
            return canvas.place_values(_as_announced(decoder.decode(file), header))
        image = open_image(path, file, max_pixels)
        if image.format == "TIFF" and canvas.color is None and _num_chs(image) != canvas.num_chs:
            raise UnfitError(f"Pillow finds {_num_chs(image)} channels in it, and the data says {canvas.num_chs} bands", _DECODER)
        if kind := _deep_type(image):
            canvas.check(_num_chs(image), kind)
            return canvas.place_values(_deep_values(path, file, image, kind))
        # libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the size is left for our own filter.
        side = 2 * max(canvas.height, canvas.width)
        image.draft(None, (side, side))
        ImageOps.exif_transpose(image, in_place=True)
        if canvas.color is None:
            return canvas.place_values(_bands(image))
        return canvas.place(_convert(image, "RGB" if canvas.color == "rgb" else "L"))


def read_header(path: Path, *, decoder: ImageDecoder | None = None, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read a file's header; the size is that before EXIF orientation is applied. Raises what :func:`decode` raises."""
    with open_regular(path) as file, _explaining(path):
        if decoder is not None and path.suffix.lower() in decoder.suffixes:
            header = decoder.header(file)
            _check_size(path, header, max_pixels)
            return header
        image = open_image(path, file, max_pixels)
        return ImageHeader(image.height, image.width, _num_chs(image), _deep_type(image) or "uint8")


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Let errors and warnings name the file."""
    try:
        with decoding(path):
            yield
    except DataError:
        raise
    except UnfitError as error:
        raise DataError(f"{path}: {error}", fix=error.fix) from error
    except Exception as error:  # on a malformed file PIL raises nearly anything, not only OSError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be decoded ({reason})", fix=f"repair or delete the file, or {SKIP}") from error


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
    file.seek(0)
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
        # Many bands, several channels of 16 bits; the last: more planes than PIL has letters for, in a header that is whole.
        if kind == "TIFF" and any(
            words in str(error) for words in ("unknown pixel mode", "samples per pixel", "string index out of range")
        ):
            raise UnfitError("it is a TIFF file of a kind that Pillow does not read", _OF_ANY_BANDS) from error
        more = ', or of a kind that only decoder = "tiff" reads' if kind == "TIFF" else ""
        raise ValueError(f"damaged {kind} header{more}") from error
    _check_size(path, ImageHeader(image.height, image.width, 0, ""), max_pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and len(image.getbands()) == 1 and image.tag_v2.get(_SAMPLES, 1) > 2:
        raise UnfitError("it is a TIFF file of many bands, of which Pillow reads the first", _OF_ANY_BANDS)
    return image


def _check_size(path: Path, header: ImageHeader, max_pixels: int) -> None:
    height, width = header[:2]
    if width * height > max_pixels:
        raise DataError(
            f"{path} is too large",
            found=f"{width:,} x {height:,}: {width * height:,} pixels",
            allowed=f"{max_pixels:,} pixels, max_pixels in [data]",
            fix=f"raise max_pixels if you trust the file, delete it, or {SKIP}",
        )


def _as_announced(values: np.ndarray, header: ImageHeader) -> np.ndarray:
    found = (*values.shape[1:], *values.shape[:1], str(values.dtype))
    if found != tuple(header):
        raise ValueError(f"its header announces {tuple(header)}, and its pixels are {found}")
    return values


def _deep_type(image: ImageFile.ImageFile) -> str:
    """The type of pixels that are not 8-bit numbers; empty where they are."""
    if image.mode == "F":
        return "float32"
    if image.mode.startswith("I"):
        return "uint16" if ";16" in image.mode else "int32"
    # PIL has no mode for 16 bits in several channels, and would drop the lower eight.
    raw = image.tile[0][3] if image.tile else ""
    return "uint16" if isinstance(raw, str) and ";16" in raw and image.mode not in ("1", "P") else ""


def _num_chs(image: ImageFile.ImageFile) -> int:
    """Channels of the file. Of gray with transparency in 16 bits PIL makes RGBA."""
    if image.tile and str(image.tile[0][3]).startswith("LA;16"):
        return 2
    return 3 if image.mode == "P" else len(image.getbands())


def _deep_values(path: Path, file: BinaryIO, image: ImageFile.ImageFile, kind: str) -> np.ndarray:
    """(C, H, W) pixels of more than 8 bits."""
    if _num_chs(image) > 1:
        if image.format != "PNG" or _num_chs(image) == 2:
            raise UnfitError(f"it has {_num_chs(image)} channels of 16 bits, which are not read of a {image.format} file", _DECODER)
        # Of each number PIL keeps one of the two bytes: the first, and, told that they are in the other order, the second.
        halves = (image, open_image(path, file, MAX_PIXELS))
        for half, order in zip(halves, "BL", strict=True):
            half.tile = [(*tile[:3], f"{image.mode};16{order}") for tile in half.tile]  # pyright: ignore[reportAttributeAccessIssue] - a tile is a tuple
            ImageOps.exif_transpose(half, in_place=True)
        high, low = (np.asarray(half).astype(np.uint16) for half in halves)
        return ((high << 8) | low).transpose(2, 0, 1)
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image)[None].astype(kind)


def _bands(image: Image.Image) -> np.ndarray:
    """The channels of an 8-bit picture as they are, (C, H, W); those of a palette are RGB."""
    pixels = np.array(image.convert("L") if image.mode == "1" else image.convert("RGB") if image.mode == "P" else image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _convert(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """To 8-bit RGB or gray."""
    if image.has_transparency_data:
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
