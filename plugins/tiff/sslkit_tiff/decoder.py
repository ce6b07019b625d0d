"""The decoder of TIFF files: the first image of a file, with all of its bands."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, final

import numpy as np

from sslkit import ImageDecoder, ImageHeader, OptionError

try:
    import tifffile
except ImportError:  # optional: without it, using the decoder is an error that says how to install it
    tifffile = None

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of damaged files is reported with their names


@final
@dataclass(frozen=True, kw_only=True)
class Tiff(ImageDecoder):
    """TIFF files as tifffile reads them: any number of bands, of any type, in one page or a page each (GeoTIFF, BigTIFF, OME-TIFF, ImageJ).

    Of several images in a file, the first is read. Compressed files need the package imagecodecs, except for deflate.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    def __post_init__(self) -> None:
        if tifffile is None:
            raise OptionError("", "the decoder of TIFF files needs tifffile, which is not installed", fix='pip install "sslkit[tiff]"')

    def header(self, file: BinaryIO) -> ImageHeader:
        """Size, bands and type of the first image, from its tags."""
        with _first_image(file) as image:
            num_chs, height, width = (image.shape[axis] if axis >= 0 else 1 for axis in _axes(image))
            return ImageHeader(height, width, num_chs, image.dtype.newbyteorder("=").name)

    def decode(self, file: BinaryIO) -> np.ndarray:
        """(C, H, W), also of interleaved bands."""
        with _first_image(file) as image:
            bands, rows, columns = _axes(image)
            pixels = image.asarray()
            order = [axis for axis in (bands, rows, columns) if axis >= 0]
            others = [axis for axis in range(pixels.ndim) if axis not in order]  # of length 1
            pixels = pixels.transpose(*others, *order).reshape(-1, pixels.shape[rows], pixels.shape[columns])
            return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


@contextmanager
def _first_image(file: BinaryIO) -> Iterator[Any]:
    """The first series, as tifffile calls pages that belong together."""
    assert tifffile is not None
    with tifffile.TiffFile(file) as opened:
        if not opened.series:
            raise ValueError("there is no image in it")
        yield opened.series[0]


def _axes(image: Any) -> tuple[int, int, int]:
    """The axes of bands, rows and columns; -1 for bands where there is only one."""
    names = image.axes
    rows, columns = names.find("Y"), names.find("X")
    others = [axis for axis in range(len(names)) if axis not in (rows, columns) and image.shape[axis] > 1]
    if min(rows, columns) < 0 or len(others) > 1:
        shape = " x ".join(f"{size} {name}" for size, name in zip(image.shape, names, strict=True))
        raise ValueError(f"it is not an image of bands, rows and columns, but {shape} (Y are rows, X columns)")
    return others[0] if others else -1, rows, columns
