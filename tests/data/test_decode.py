import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sslkit.data.decode import decode
from sslkit.errors import DataError

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


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_a_file_of_the_right_size_keeps_its_pixels(tmp_path, suffix):
    path = save(tmp_path, Image.fromarray(noise(16, 16)), suffix, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert difference(decode(path, 16, "rgb"), expected) == 0


def test_the_name_does_not_decide_the_format(tmp_path):
    path = save(tmp_path, Image.fromarray(noise(8, 8)), "png").rename(tmp_path / "image.JPEG")
    assert decode(path, 8, "rgb").shape == (3, 8, 8)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (41, 97), (20, 20), (10, 14)])
def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path, height, width):
    pixels, size = smooth(height, width), 16
    scale = size / min(height, width)
    resized = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    expected = np.asarray(resized.crop((left, top, left + size, top + size)))
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


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_16_bits_are_scaled_not_clipped(tmp_path, color):
    values = np.array([[0, 128, 129, 257], [1000, 30000, 65406, 65535], *RNG.integers(0, 65536, (2, 4))], dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(values))
    with Image.open(path) as image:
        assert image.mode.startswith("I")
    expected = np.round(values / 257)[..., None].repeat(3 if color == "rgb" else 1, axis=2)
    assert difference(decode(path, 4, color), expected) == 0


def test_16_bits_per_channel(tmp_path):
    values = RNG.integers(0, 65536, (4, 4, 3), dtype=np.uint16)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert difference(decode(path, 4, "rgb"), values / 257) <= 1


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
    expected = expected.reshape(8, 8, -1)
    assert difference(decode(save(tmp_path, image, exif=exif), 8, "gray" if kind == "16 bits" else "rgb"), expected) == 0


def test_exif_orientation_of_a_large_jpeg(tmp_path):
    upright = smooth(96, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(np.rot90(upright))), "jpg", quality=95, exif=exif)
    expected = np.asarray(Image.fromarray(upright[16:80]).resize((16, 16), Image.Resampling.BILINEAR))
    assert difference(decode(path, 16, "rgb"), expected) <= 6


def test_the_first_of_several_pictures(tmp_path):
    first, second = Image.fromarray(smooth(32, 32)), Image.fromarray(255 - smooth(32, 32))
    path = save(tmp_path, first, "jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(hwc(decode(path, 32, "rgb")) - smooth(32, 32)).mean() < 5


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


def gif_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 4)).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no JPEG, PNG, WebP or BMP image"),
        (b"hello", "no JPEG, PNG, WebP or BMP image"),
        (gif_bytes(), "no JPEG, PNG, WebP or BMP image"),
        (jpeg_bytes()[:1000], "image file is truncated"),
        (jpeg_bytes()[:20], ""),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", ""),
    ],
    ids=["empty", "text", "gif", "cut off", "header only", "cut off png"],
)
def test_a_bad_file_is_named(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path} cannot be decoded (") + ".*" + reason) as caught:
        decode(path, 8, "rgb")
    assert 'repair or delete the file, or set on_error = "skip" in [data]' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone.png'} cannot be decoded ([Errno 2] No such file")):
        decode(tmp_path / "gone.png", 8, "rgb")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("1", (200, 200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(DataError, match=re.escape(f"{path} cannot be decoded") + ".*could be decompression bomb"):
        decode(path, 8, "rgb")
