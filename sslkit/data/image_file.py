"""One image file -> one uint8 tensor, whatever the file's format, colour mode, bit depth and orientation."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.data.image_header import MAX_PIXELS, open_image
from sslkit.data.library_warnings import decoding
from sslkit.data.regular_file import SKIP, open_regular


def decode(path: Path, size: int, color: Literal["rgb", "gray"], *, max_pixels: int = MAX_PIXELS, num_bytes: int | None = None) -> Tensor:
    """Decode a file, resize its shorter side to ``size`` (bilinear, antialiased) and crop the central square.

    A file of exactly that size keeps its pixels. The orientation in the EXIF data is applied, transparency is laid over white, 16-bit
    gray is scaled to 8 bits, of several pictures the first is taken, and gray images become RGB and the other way round (ITU-R BT.601 luma) as ``color`` asks.

    Args:
        path: a JPEG, PNG, WebP, GIF, TIFF or BMP file.
        size: height and width of the result, in pixels.
        color: 3 channels or 1.
        max_pixels: width times height of the file, at most; the header tells, before anything is decoded.
        num_bytes: how long the file was when it was found; None: it does not matter.

    Returns:
        (C, size, size) uint8.

    Raises:
        DataError: the file is gone, changed, damaged, too large or of another format; the message names it.
    """
    with open_regular(path, num_bytes) as file, decoding(path):
        try:
            square = _square(open_image(path, file, max_pixels), size, "RGB" if color == "rgb" else "L")
        except DataError:
            raise
        except Exception as error:  # on a malformed file PIL raises nearly anything, not only OSError
            raise DataError(f"{path} cannot be decoded ({_reason(error)})", fix=f"repair or delete the file, or {SKIP}") from error
    return torch.from_numpy(np.array(square)).reshape(size, size, -1).permute(2, 0, 1).contiguous()


def _square(image: Image.Image, size: int, mode: Literal["RGB", "L"]) -> Image.Image:
    # libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the size is left for our own filter.
    image.draft(None, (2 * size, 2 * size))
    ImageOps.exif_transpose(image, in_place=True)
    return _fit(_convert(image, mode), size)


def _convert(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """To 8-bit RGB or gray."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers: which of them is white, nobody can know")
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip at 255. 65535 = 255 * 257.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels do not fit into 16 bits: {values.min()} to {values.max()}")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Resizing reads the central square alone: an image of 1,000,000 x 1 pixels takes no more memory than it has pixels."""
    return image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def _reason(error: Exception) -> str:
    """One line."""
    return " ".join(str(error).split()) or type(error).__name__
