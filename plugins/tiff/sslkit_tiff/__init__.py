"""TIFF files with many bands, 16-bit or floating-point pixels, read by tifffile (https://github.com/cgohlke/tifffile)."""

from sslkit import ImageDecoder, hookimpl
from sslkit_tiff.decoder import Tiff

__all__ = ["Tiff", "decoders"]


@hookimpl
def decoders() -> dict[str, type[ImageDecoder]]:
    """Offer the decoder under the name that recipes use."""
    return {"tiff": Tiff}
