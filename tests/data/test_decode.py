import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sslkit.contract.errors import DataError
from tests.data.folders import decode

RNG = np.random.default_rng(0)


def smooth(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 without sharp edges, which JPEG and resizing keep well."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([255 * x, 255 * y, 127 + 100 * np.sin(5 * (x + y))], axis=2).round().astype(np.uint8)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(tmp_path, image: Image.Image, suffix: str = "png", **options):
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    return path


def hwc(pixels: torch.Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C) as signed integers."""
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    return pixels.permute(1, 2, 0).numpy().astype(int)


def difference(pixels: torch.Tensor, expected: np.ndarray) -> int:
    assert hwc(pixels).shape == expected.shape
    return int(np.abs(hwc(pixels) - expected.astype(int)).max())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_a_file_of_the_right_size_keeps_its_pixels(tmp_path, suffix):
    path = save(tmp_path, Image.fromarray(noise(16, 16)), suffix, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert difference(decode(path, 16, "rgb"), expected) == 0


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("gif", {}),
        ("tif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tif", {"compression": "tiff_adobe_deflate"}),
        ("tif", {"big_tiff": True}),
        ("webp", {"lossless": True}),
        ("png", {}),
        ("png", {"default_image": True}),
    ],
    ids=["gif", "tiff", "lzw", "deflate", "big", "webp", "png", "default png"],
)
@pytest.mark.parametrize("num", [1, 3])
def test_the_first_picture_of_an_animation_and_of_several_pages_is_taken(tmp_path, suffix, options, num):
    pictures = [Image.fromarray(noise(16, 16)) for _ in range(num)]
    pictures = [picture.quantize(64) for picture in pictures] if suffix == "gif" else pictures
    others = {"save_all": True, "append_images": pictures[1:], "duration": 50} if num > 1 else {}
    path = save(tmp_path, pictures[0], suffix, **options, **others)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) >= num
    assert difference(decode(path, 16, "rgb"), np.asarray(pictures[0].convert("RGB"))) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["plain", "lzw"])
def test_tiff_is_turned_once(tmp_path, orientation, options):
    """PIL turns it itself while it decodes, and we turn what it did not."""
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(noise(16, 16))
    expected = decode(save(tmp_path, picture, "png", exif=exif), 16, "rgb")
    assert torch.equal(decode(save(tmp_path, picture, "tif", exif=exif, **options), 16, "rgb"), expected)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16"])
def test_pixels_without_a_known_white_are_refused(tmp_path, dtype):
    path = save(tmp_path, Image.fromarray(RNG.integers(0, 65536, (8, 8)).astype(dtype)), "tif")
    with pytest.raises(DataError) as error:
        decode(path, 8, "gray")
    assert str(error.value) == (
        f"{path}: its pixels are {dtype}, and no window says which values are black and white;"
        " set window = [low, high] in [data]; `sslkit data stats` suggests one"
    )


def test_the_name_does_not_decide_the_format(tmp_path):
    path = save(tmp_path, Image.fromarray(noise(8, 8)), "png").rename(tmp_path / "image.JPEG")
    assert decode(path, 8, "rgb").shape == (3, 8, 8)


def naive(image: Image.Image, size: int) -> np.ndarray:
    """Resize all of it, then cut the centre out."""
    scale = size / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (41, 97), (20, 20), (10, 14)])
def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path, height, width):
    pixels, size = smooth(height, width), 16
    expected = naive(Image.fromarray(pixels), size)
    # Resizing and cropping in one go does not round the crop to whole pixels: half a pixel of this gradient at most.
    assert difference(decode(save(tmp_path, Image.fromarray(pixels)), size, "rgb"), expected) <= 0.5 * 255 / size + 1


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(hwc(decode(save(tmp_path, Image.fromarray(stripes)), 8, "rgb")) - 127.5).max() < 16


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path, monkeypatch):
    decoded = []
    transpose = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image, **options: decoded.append(image.size) or transpose(image, **options))
    pixels = smooth(640, 960)
    path = save(tmp_path, Image.fromarray(pixels), "jpg", quality=95)
    expected = np.asarray(Image.fromarray(pixels).crop((160, 0, 800, 640)).resize((64, 64), Image.Resampling.BILINEAR))
    assert difference(decode(path, 64, "rgb"), expected) <= 4
    assert decoded == [(240, 160)]


def test_gray_is_luma(tmp_path):
    pixels = noise(8, 8)
    luma = pixels @ [0.299, 0.587, 0.114]
    assert np.abs(hwc(decode(save(tmp_path, Image.fromarray(pixels)), 8, "gray"))[..., 0] - luma).max() < 1.01


@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_gray_files(tmp_path, color, suffix):
    path = save(tmp_path, Image.fromarray(noise(8, 8)[..., 0]), suffix)
    with Image.open(path) as image:
        assert image.mode == "L"
        expected = np.asarray(image)[..., None].repeat(3 if color == "rgb" else 1, axis=2)
    assert difference(decode(path, 8, color), expected) == 0


def test_black_and_white(tmp_path):
    mask = noise(8, 8)[..., 0] > 127
    assert difference(decode(save(tmp_path, Image.fromarray(mask)), 8, "gray"), mask[..., None] * 255) == 0


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_palette(tmp_path, color):
    image = Image.fromarray(smooth(16, 16)).quantize(32)
    expected = np.asarray(image.convert("RGB").convert("RGB" if color == "rgb" else "L")).reshape(16, 16, -1)
    assert difference(decode(save(tmp_path, image), 16, color), expected) == 0


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.round(rgb * share + 255 * (1 - share))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_lies_over_white(tmp_path, suffix):
    rgba = noise(16, 16, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    path = save(tmp_path, Image.fromarray(rgba), suffix, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    pixels = decode(path, 16, "rgb")
    assert difference(pixels, over_white(rgba[..., :3], rgba[..., 3])) <= 1
    assert np.all(hwc(pixels)[0] == 255)
    assert np.all(hwc(pixels)[1] == rgba[1, :, :3])


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_gray_with_alpha(tmp_path, color):
    la = noise(16, 16, 2)
    expected = over_white(la[..., :1], la[..., 1])
    image = Image.merge("LA", [Image.fromarray(la[..., 0]), Image.fromarray(la[..., 1])])
    assert difference(decode(save(tmp_path, image), 16, color), expected.repeat(3 if color == "rgb" else 1, axis=2)) <= 1


@pytest.mark.parametrize("alphas", ["one colour", "every colour"])
def test_palette_with_transparency(tmp_path, alphas):
    image = Image.fromarray(smooth(16, 16)).quantize(8)
    alpha = np.array([0, 30, 60, 90, 120, 150, 180, 255] if alphas == "every colour" else [255, 255, 0, 255, 255, 255, 255, 255])
    path = save(tmp_path, image, transparency=bytes(alpha.tolist()) if alphas == "every colour" else 2)
    expected = over_white(np.asarray(image.convert("RGB")), alpha[np.asarray(image)])
    assert difference(decode(path, 16, "rgb"), expected) <= 1


def test_a_transparent_colour_of_rgb(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = (10, 20, 30)
    expected = pixels.copy()
    expected[0] = 255
    assert difference(decode(save(tmp_path, Image.fromarray(pixels), transparency=(10, 20, 30)), 4, "rgb"), expected) == 0


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_16_bits_keep_their_values(tmp_path, color, suffix):
    values = np.array([[0, 128, 129, 257], [1000, 30000, 65406, 65535], *RNG.integers(0, 65536, (2, 4))], dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(values), suffix)
    with Image.open(path) as image:
        assert image.mode.startswith("I")
    pixels = decode(path, 4, color, window=(0, 65535))
    assert pixels.dtype == torch.uint16
    assert all(np.array_equal(channel, values) for channel in pixels.numpy())


@pytest.mark.parametrize(("num_chs", "color_type"), [(1, 0), (3, 2), (4, 6)])
def test_16_bits_per_channel(tmp_path, num_chs, color_type):
    """PIL would drop the lower eight of several channels."""
    values = RNG.integers(0, 65536, (4, 6, num_chs), dtype=np.uint16)
    path = tmp_path / "image.png"
    path.write_bytes(png_of_16_bits(values, color_type))
    pixels = decode(path, (4, 6), None, num_chs=num_chs, window=(0, 65535))
    assert pixels.dtype == torch.uint16
    assert np.array_equal(pixels.numpy().transpose(1, 2, 0), values)
    with pytest.raises(DataError, match=r"image\.png: its pixels are uint16, and no window says"):
        decode(path, (4, 6), None, num_chs=num_chs)
    with pytest.raises(DataError, match=rf"image\.png: it has {num_chs} channels, and the data says 13 bands; state one value of mean"):
        decode(path, (4, 6), None, num_chs=13, window=(0, 65535))


def png_of_16_bits(values: np.ndarray, color_type: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("color", ["gray", "rgb", None])
def test_an_image_of_the_size_of_the_canvas_keeps_its_values(tmp_path, dtype, color):
    values = RNG.integers(0, 256 if dtype == "uint8" else 60_000, (5, 9)).astype(dtype)
    pixels = decode(save(tmp_path, Image.fromarray(values), "tif"), (5, 9), color, window=(-5, 500))
    assert pixels.dtype == {"uint8": torch.uint8, "uint16": torch.uint16}.get(dtype, torch.float32)
    assert pixels.shape == (3 if color == "rgb" else 1, 5, 9)
    assert all(np.array_equal(channel, values) for channel in pixels.numpy())


def fitted(values: np.ndarray, side: int, fit: str, margin: float) -> np.ndarray:
    """(H, W) -> (side, side), by PIL."""
    height, width = values.shape
    if fit == "crop":  # of 8-bit pictures the filter looks beyond the edges of the part that is cut out
        if values.dtype == np.uint8:
            return np.asarray(ImageOps.fit(Image.fromarray(values), (side, side), Image.Resampling.BILINEAR))
        inner = min(height, width)
        values = values[(height - inner) // 2 :, (width - inner) // 2 :][:inner, :inner]
    size = (side * width // max(height, width), side * height // max(height, width)) if fit == "pad" else (side, side)
    resized = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    return np.pad(resized, ((top, side - size[1] - top), (left, side - size[0] - left)), constant_values=margin)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(48, 96), (97, 50), (48, 48), (6, 12)])
@pytest.mark.parametrize(("dtype", "unit"), [("uint8", 1), ("uint16", 200), ("float32", 3.5)])
def test_files_of_other_shapes_are_fitted_to_the_canvas(tmp_path, fit, shape, dtype, unit):
    if fit == "pad" and shape == (97, 50):
        shape = (96, 48)  # the reference knows no fractions of a pixel
    values = (noise(*shape, 1)[..., 0].astype(float) * unit).astype(dtype)
    pixels = decode(save(tmp_path, Image.fromarray(values), "tif"), 24, "gray", fit=fit, window=(10 * unit, 255 * unit))
    expected = fitted(values, 24, fit, 10 * unit)
    assert np.abs(pixels[0].float().numpy() - expected).max() <= 1 + 0.001 * unit


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    values = np.zeros((8, 8), dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(DataError, match=r"image\.tif cannot be decoded \(some of its pixels are not finite"):
        decode(save(tmp_path, Image.fromarray(values), "tif"), 8, "gray", window=(0, 1))


def test_channels_that_are_neither_gray_nor_rgb_are_no_colours(tmp_path):
    values = RNG.integers(0, 65536, (4, 4, 4), dtype=np.uint16)
    (path := tmp_path / "image.png").write_bytes(png_of_16_bits(values, 6))
    with pytest.raises(DataError, match=r'it has 4 channels, which are neither gray nor rgb; set color = "bands" in \[data\] to take its'):
        decode(path, 4, "rgb", window=(0, 65535))


def test_the_luma_of_16_bits(tmp_path):
    values = RNG.integers(0, 65536, (4, 4, 3), dtype=np.uint16)
    (path := tmp_path / "image.png").write_bytes(png_of_16_bits(values, 2))
    expected = values @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(path, 4, "gray", window=(0, 65535))[0].float().numpy() - expected).max() <= 0.51


@pytest.mark.parametrize(("mode", "num_chs"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 1)])
def test_the_bands_of_8_bit_pictures(tmp_path, mode, num_chs):
    image = Image.fromarray(noise(6, 6)).convert(mode)
    pixels = decode(save(tmp_path, image), 6, None, num_chs=num_chs)
    expected = np.asarray(image.convert({"P": "RGB", "1": "L"}.get(mode, mode))).reshape(6, 6, -1)
    assert np.array_equal(hwc(pixels), expected)


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_cmyk_jpeg(tmp_path, color):
    pixels = smooth(32, 32)
    image = Image.fromarray(pixels)
    path = save(tmp_path, image.convert("CMYK"), "jpg", quality=100)
    expected = np.asarray(image if color == "rgb" else image.convert("L")).reshape(32, 32, -1)
    assert difference(decode(path, 32, color), expected) <= 8


UPRIGHT = {  # what the camera stored for an upright image, by orientation (EXIF 2.32, tag 0x0112)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["rgb", "palette", "16 bits"])
def test_exif_orientation(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = (
        np.asarray(Image.fromarray(noise(8, 8)).quantize(16)) if kind == "palette" else noise(8, 8, 3 if kind == "rgb" else 1).squeeze()
    )
    image = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](upright.astype(np.uint16) * 257 if kind == "16 bits" else upright)))
    expected = upright
    if kind == "palette":
        palette = noise(1, 16)[0]
        image.putpalette(palette.tobytes())
        expected = palette[upright]
    expected, window = expected.reshape(8, 8, -1), (0, 65535) if kind == "16 bits" else None
    pixels = decode(save(tmp_path, image, exif=exif), 8, "gray" if window else "rgb", window=window)
    assert difference((pixels.int() // 257).to(torch.uint8) if window else pixels, expected) == 0


def test_exif_orientation_of_a_large_jpeg(tmp_path):
    upright = smooth(96, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(np.rot90(upright))), "jpg", quality=95, exif=exif)
    expected = np.asarray(Image.fromarray(upright[16:80]).resize((16, 16), Image.Resampling.BILINEAR))
    assert difference(decode(path, 16, "rgb"), expected) <= 6


def test_the_first_of_several_pictures_in_a_jpeg(tmp_path):
    first, second = Image.fromarray(smooth(32, 32)), Image.fromarray(255 - smooth(32, 32))
    path = save(tmp_path, first, "jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(hwc(decode(path, 32, "rgb")) - smooth(32, 32)).mean() < 5


# ------------------------------------------------------------------------------------------------------- sizes and shapes


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_a_single_pixel(tmp_path, suffix, color):
    path = save(tmp_path, Image.new("RGB", (1, 1), (9, 9, 9)), suffix)
    pixels = decode(path, 32, color)
    assert pixels.shape == (3 if color == "rgb" else 1, 32, 32)
    assert (pixels.float() - 9).abs().max() <= 2


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("size", [4, 10, 40])
def test_a_strip_is_resized_as_if_it_were_resized_as_a_whole(tmp_path, suffix, upright, size):
    """20,000 x 10 pixels, and 10 x 20,000: the naive way makes up to 80,000 x 40 pixels of them and cuts out the centre."""
    strip = np.tile(smooth(10, 40), (1, 500, 1))
    image = Image.fromarray(np.ascontiguousarray(strip.swapaxes(0, 1)) if upright else strip)
    path = save(tmp_path, image, suffix)
    with Image.open(path) as saved:
        assert difference(decode(path, size, "rgb"), naive(saved, size)) <= 1


DECODE_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from sslkit.data.canvas import Canvas
from sslkit.data.image_file import decode
decode(Path(sys.argv[2]), Canvas(8, 8, "rgb", 3))  # what is loaded on the way
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode(Path(sys.argv[1]), Canvas(224, 224, "rgb", 3)).shape == (3, 224, 224)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1)])
def test_a_line_of_a_million_pixels_takes_the_memory_of_a_million_pixels(tmp_path, shape):
    """Resized as a whole it would have 50,000,000,000."""
    Image.fromarray(noise(*shape)).save(tmp_path / "line.png")
    Image.fromarray(noise(8, 8)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", DECODE_IN_LITTLE_MEMORY, tmp_path / "line.png", tmp_path / "small.png"]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 64 * 1024


# --------------------------------------------------------------------------------------------------------------- bad files


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(extra: bytes) -> bytes:
    """A PNG file of 64 x 64 pixels with a chunk after its header."""
    data = encoded("PNG")
    return data[:33] + extra + data[33:]


BOMB = zlib.compress(bytes(10_000_000))
NO_IMAGE = "no JPEG, PNG, WebP, GIF, TIFF or BMP image"
BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", NO_IMAGE),
    "gif cut off": (encoded("GIF")[:1000], "image file is truncated"),
    "gif header only": (encoded("GIF")[:20], ""),
    "tiff cut off": (encoded("TIFF")[:1000], ""),
    "tiff header only": (encoded("TIFF")[:20], ""),
    "lzw tiff cut off": (encoded("TIFF", compression="tiff_lzw")[:1000], ""),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NO_IMAGE),
    "jpeg cut off": (encoded("JPEG")[:1000], "image file is truncated"),
    "jpeg header only": (encoded("JPEG")[:20], ""),
    "progressive jpeg cut off": (encoded("JPEG", progressive=True)[:1000], "image file is truncated"),
    "png cut off": (encoded("PNG")[:1000], "image file is truncated"),
    "png header only": (encoded("PNG")[:50], ""),
    "png header cut off": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", "Truncated File Read"),
    "bmp cut off": (encoded("BMP")[:1000], "image file is truncated"),
    "webp cut off": (encoded("WEBP")[:1000], ""),
    "lossless webp cut off": (encoded("WEBP", lossless=True)[:1000], ""),
    "text bomb": (png_with(chunk(b"zTXt", b"Comment\0\0" + BOMB)), "Decompressed data too large"),
    "profile bomb": (png_with(chunk(b"iCCP", b"profile\0\0" + BOMB)), "Decompressed data too large"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_bad_file_is_named(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path} cannot be decoded (") + ".*" + reason) as caught:
        decode(path, 8, "rgb")
    assert 'repair or delete the file, or set on_error = "skip" in [data]' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"profile\0\0" + b"no zlib"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(100)),
        chunk(b"tEXt", b"Comment\0" + b"x" * 1_000_000),
    ],
    ids=["damaged profile", "damaged exif", "long text"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_what_lies_beside_the_pixels_does_not_matter(tmp_path, extra):
    content = png_with(extra)
    (tmp_path / "image.png").write_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert difference(decode(tmp_path / "image.png", 64, "rgb"), expected) == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_every_way_to_cut_a_file_off_and_random_damage_end_in_a_picture_or_a_message(tmp_path, kind):
    """As PIL does it, a JPEG that lacks nothing but its end may still be whole. Nothing else may come out, nor may anything hang."""
    content, path, random = encoded(kind), tmp_path / "damaged", np.random.default_rng(1)
    cut = [content[:length] for length in range(0, len(content), 97)]
    damaged = [bytearray(content) for _ in range(100)]
    for each in damaged:
        for place in random.integers(0, min(len(content), 400), 3):
            each[place] = random.integers(256)
    outcomes = set()
    for changed in (*cut, *damaged):
        path.write_bytes(changed)
        try:
            outcomes.add(tuple(decode(path, 8, "rgb", max_pixels=1_000_000).shape))
        except DataError as error:
            outcomes.add(re.split("[(;]", str(error).removeprefix(f"{path} "))[0])
    assert outcomes - {"is too large"} == {(3, 8, 8), "cannot be decoded "}


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone.png'} is gone: it was there when the folder was scanned; leave")):
        decode(tmp_path / "gone.png", 8, "rgb")
