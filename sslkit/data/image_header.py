"""The header of an image file: which format it has and how many pixels, known before any of them is decoded."""

from pathlib import Path
from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sslkit.contract.errors import DataError
from sslkit.data.regular_file import SKIP

MAX_PIXELS = 178_956_970
"""Where PIL begins to suspect a decompression bomb: 0.7 GB as PIL holds it."""


def open_image(path: Path, file: BinaryIO, max_pixels: int) -> ImageFile:
    """Read the header of a JPEG, PNG, WebP, GIF, TIFF or BMP file, whatever it is called. No pixel is decoded, nor memory for them taken.

    PIL's readers are called one by one and not through ``Image.open``: that compares the size with a limit of the whole process, and
    has many more readers, some of which start programs.

    Args:
        path: for messages.
        file: open, at its beginning.
        max_pixels: width times height, at most.

    Raises:
        DataError: the image has more pixels.
        Exception: the header is damaged or of another format: PIL raises nearly anything.
    """
    start = file.read(30)
    file.seek(0)
    reader = _reader(start)
    if reader is WebPImageFile:  # it takes the memory for the whole picture as soon as it opens the file
        _check_pixels(path, _webp_size(start), max_pixels)
    try:
        image = reader(file)
    except SyntaxError as error:  # PIL's way to say so, with whatever struct or zlib found
        raise ValueError(f"damaged {reader.format} header") from error
    _check_pixels(path, image.size, max_pixels)
    return image


def _reader(start: bytes) -> type[ImageFile]:
    if not start:
        raise ValueError("the file is empty")
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImageFile  # of several pictures in one JPEG file it reads the first
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile
    if start.startswith(b"BM"):
        return BmpImageFile
    if start.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile  # of an animation it reads the first picture
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the latter two of files beyond 4 GB
        return TiffImageFile  # of several pages it reads the first
    raise ValueError("no JPEG, PNG, WebP, GIF, TIFF or BMP image")


def _webp_size(start: bytes) -> tuple[int, int]:
    """Width and height out of the first 30 bytes (RFC 9649, sections 2.5 to 2.7)."""
    kind = start[12:16]
    if kind == b"VP8X" and len(start) == 30:
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if kind == b"VP8L" and len(start) >= 25:
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(start) == 30:
        return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
    raise ValueError("damaged WEBP header")


def _check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DataError(
            f"{path} is too large",
            found=f"{width:,} x {height:,}: {width * height:,} pixels",
            allowed=f"{max_pixels:,} pixels, max_pixels in [data]",
            fix=f"raise max_pixels if you trust the file, delete it, or {SKIP}",
        )
