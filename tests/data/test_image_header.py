"""Small files that claim to be large: real headers whose width and height were changed."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image

from sslkit.contract.errors import DataError
from sslkit.data.image_file import MAX_PIXELS, open_image
from tests.data.folders import decode
from tests.recipes import refusal


def encoded(kind: str, **options) -> bytearray:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), 77).save(buffer, kind, **options)
    return bytearray(buffer.getvalue())


def patched(data: bytearray, start: int, layout: str, *values: int) -> bytearray:
    struct.pack_into(layout, data, start, *values)
    return data


def png(width: int, height: int) -> bytearray:
    data = patched(encoded("PNG"), 16, ">II", width, height)
    return patched(data, 29, ">I", zlib.crc32(data[12:29]))


def jpeg(width: int, height: int) -> bytearray:
    data = encoded("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def bmp(width: int, height: int) -> bytearray:
    return patched(encoded("BMP"), 18, "<ii", width, height)


def webp_lossy(width: int, height: int) -> bytearray:
    data = encoded("WEBP")
    assert data[12:16] == b"VP8 "
    return patched(data, 26, "<HH", width, height)


def webp_lossless(width: int, height: int) -> bytearray:
    data = encoded("WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    return patched(data, 21, "<I", int.from_bytes(data[21:25], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1))


def webp_extended(width: int, height: int) -> bytearray:
    data = encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return data


def gif(width: int, height: int) -> bytearray:
    return patched(encoded("GIF"), 6, "<HH", width, height)


def gif_frame(width: int, height: int) -> bytearray:
    """The picture is larger than the animation that it is in."""
    data = encoded("GIF")
    return patched(data, data.index(b",") + 5, "<HH", width, height)


def tiff(width: int, height: int) -> bytearray:
    data = encoded("TIFF")
    start = int.from_bytes(data[4:8], "little") + 2
    for tag, value in ((256, width), (257, height)):
        place = next(place for place in range(start, len(data), 12) if data[place : place + 2] == struct.pack("<H", tag))
        patched(data, place, "<HHII", tag, 4, 1, value)
    return data


def opened_size(path: Path, max_pixels: int) -> tuple[int, int]:
    with path.open("rb") as file:
        return open_image(path, file, max_pixels).size


@pytest.mark.parametrize(
    ("make", "width", "height"),
    [
        (png, 2**31 - 1, 2**31 - 1),
        (png, 20_000, 20_000),
        (jpeg, 65_500, 65_500),
        (bmp, 2**31 - 1, 2**30),
        (gif, 65_535, 65_535),
        (tiff, 2**31 - 1, 2**30),
    ],
)
def test_a_bomb_is_refused_by_its_header(tmp_path, make, width, height):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(make(width, height))
    pixels = f"{width:,} x {height:,}: {width * height:,} pixels"
    assert refusal(DataError, decode, path, 8, "rgb") == (
        f"{path} is too large; found '{pixels}'; allowed: 178,956,970 pixels, max_pixels in [data];"
        ' raise max_pixels if you trust the file, delete it, or set on_error = "skip" in [data]'
    )


@pytest.mark.parametrize(("make", "side"), [(webp_lossy, 16_383), (webp_lossless, 16_384), (webp_extended, 2**24)])
def test_a_webp_bomb_is_refused_before_pil_takes_memory_for_it(tmp_path, make, side):
    """By PIL itself since 12.2, by us before."""
    path = tmp_path / "bomb.webp"
    path.write_bytes(make(side, side))
    with pytest.raises(DataError, match=re.escape(str(path)) + " (is too large|cannot be decoded )"):
        decode(path, 8, "rgb")


def test_a_picture_that_is_larger_than_its_animation_counts(tmp_path):
    path = tmp_path / "bomb.gif"
    path.write_bytes(gif_frame(65_535, 65_535))
    with pytest.raises(DataError, match=re.escape(f"{path} cannot be decoded (Image size (4294836225 pixels) exceeds limit")):
        decode(path, 8, "rgb")
    path.write_bytes(gif_frame(800, 400))
    with pytest.raises(DataError, match="800 x 400: 320,000 pixels"):
        opened_size(path, 319_999)


@pytest.mark.parametrize("make", [png, jpeg, bmp, gif, tiff, webp_lossy, webp_lossless, webp_extended])
def test_the_limit_is_of_width_times_height_and_belongs_to_the_good(tmp_path, make):
    path = tmp_path / "image"
    path.write_bytes(make(8, 4))
    assert opened_size(path, 32) == (8, 4)
    with pytest.raises(DataError, match=re.escape("found '8 x 4: 32 pixels'; allowed: 31 pixels")):
        opened_size(path, 31)


@pytest.mark.parametrize("make", [png, jpeg, bmp, gif, tiff])
def test_a_larger_limit_than_pils_is_ours_to_set(tmp_path, make):
    """20,000 x 20,000 is more than twice PIL's limit, where it raises; warnings are errors here."""
    path = tmp_path / "image"
    path.write_bytes(make(20_000, 20_000))
    assert 2 * MAX_PIXELS < 20_000 * 20_000
    assert opened_size(path, 400_000_000) == (20_000, 20_000)


def test_pils_own_limit_does_not_matter_and_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 48)).save(path)
    assert decode(path, 16, "rgb", max_pixels=64 * 48).shape == (3, 16, 16)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.slow
def test_an_image_that_pil_warns_of_is_decoded_in_silence_where_the_limit_allows_it(tmp_path):
    """Really decoded: 13,500 x 13,500 black and white pixels, a byte each in memory."""
    path = tmp_path / "large.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (13_500, 13_500), 1).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="13,500 x 13,500: 182,250,000 pixels"):
        decode(path, 8, "gray")
    assert decode(path, 8, "gray", max_pixels=182_250_000).unique().tolist() == [255]


def test_a_jpeg_counts_in_full_though_it_is_decoded_at_an_eighth(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (640, 640)).save(path)
    assert decode(path, 16, "rgb", max_pixels=640 * 640).shape == (3, 16, 16)
    with pytest.raises(DataError, match="640 x 640: 409,600 pixels"):
        decode(path, 16, "rgb", max_pixels=640 * 640 - 1)


@pytest.mark.parametrize("length", [8, 12, 20, 24, 29])
@pytest.mark.parametrize("make", [png, jpeg, bmp, gif, tiff, webp_lossy, webp_lossless, webp_extended])
def test_a_header_that_is_cut_off_is_damaged(tmp_path, make, length):
    path = tmp_path / "image"
    path.write_bytes(make(8, 4)[:length])
    with pytest.raises(
        DataError, match=r"cannot be decoded \((damaged \w+ header|no JPEG|image file is truncated|could not|Truncated|broken|Corrupt)"
    ):
        decode(path, 4, "rgb")
