"""TIFF files as tifffile writes them; tifffile reads them for the reference too, so what is compared with is what was written."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, final

import numpy as np
import pytest
import tifffile
import torch

import sslkit_tiff
from sslkit import Catalog, DataError, ImageDecoder, ImageFolder, ImageHeader, OptionError, PluginError, RecipeError
from sslkit.contract.images import Dataset
from sslkit.data.cache import OpenedDataset
from sslkit.data.loader import Loader
from sslkit.data.statistics import measure_data
from sslkit.recipe.build import build
from sslkit_tiff import Tiff, decoder

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")
BANDS = {"color": "bands", "mean": (0.5,) * 13, "std": (0.25,) * 13, "window": (0.0, 10_000.0), "decoder": Tiff()}


def numbers(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return (RNG.random(shape) * 10_000).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "float32"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((13, 9, 7), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((9, 7, 13), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((13, 9, 7), {"photometric": "minisblack"}),  # a page each
        ((13, 9, 7), {"photometric": "minisblack", "compression": "zlib", "bigtiff": True}),
        ((9, 7), {}),
        ((1, 9, 7), {}),
    ],
    ids=["planes", "interleaved", "pages", "deflated", "one band", "one plane"],
)
def test_bands_come_out_as_they_were_written(shape, options, dtype):
    written, file = numbers(*shape, dtype=dtype), io.BytesIO()
    tifffile.imwrite(file, written, **options)
    expected = written.reshape(-1, 9, 7) if shape[0] != 9 or len(shape) == 2 else written.transpose(2, 0, 1)
    file.seek(0)
    assert Tiff().header(file) == (9, 7, len(expected), np.dtype(dtype).newbyteorder("=").name)
    file.seek(0)
    decoded = Tiff().decode(file)
    assert decoded.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(decoded, expected)
    assert not file.closed


def test_stacks_of_colours_are_no_image():
    file = io.BytesIO()
    tifffile.imwrite(file, numbers(4, 9, 7, 3, dtype="uint8"), photometric="rgb")
    file.seek(0)
    with pytest.raises(ValueError, match=r"it is not an image of bands, rows and columns, but 4 \w x 9 Y x 7 X x 3 S"):
        Tiff().header(file)


def test_without_tifffile_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(decoder, "tifffile", None)
    with pytest.raises(OptionError, match=r'needs tifffile, which is not installed; pip install "sslkit\[tiff\]"'):
        Tiff()
    with pytest.raises(RecipeError, match=r"^data\.decoder: the decoder of TIFF files needs tifffile"):
        build(Dataset, {"name": "image_folder", "root": "x", "decoder": "tiff"}, "data", catalog())


def catalog() -> Catalog:
    return Catalog.of(datasets={"image_folder": ImageFolder}, decoders=sslkit_tiff.decoders())


def test_the_hook_offers_it_by_name():
    data = build(Dataset, {"name": "image_folder", "root": "x", "decoder": {"name": "tiff"}}, "data", catalog())
    assert data.decoder == Tiff()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RecipeError, match=r"^data\.decoder: no decoder is called 'tif'; allowed: tiff; did you mean 'tiff'\?"):
        build(Dataset, {"name": "image_folder", "root": "x", "decoder": "tif"}, "data", catalog())
    with pytest.raises(PluginError, match="decoder 'x' must be a subclass of ImageDecoder"):
        Catalog.of(decoders={"x": int})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for number in range(4):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, numbers(13, 12, 10), photometric="minisblack")
    return tmp_path


def test_a_folder_of_many_bands_keeps_its_values_in_workers_too(folder, monkeypatch):
    data = ImageFolder(root=str(folder), image_size=(12, 10), **BANDS)
    written = np.stack([tifffile.imread(path) for path in sorted((folder / "train").rglob("*.tif"))])
    expected = torch.from_numpy(written.astype(np.float32) / 10_000)
    images = OpenedDataset(data).load("train")
    assert images is not None
    torch.testing.assert_close(next(Loader(images, batch_size=4, device=CPU).in_order()).images, expected)
    assert images.stored.pixels is not None
    assert images.stored.pixels.dtype == torch.uint16
    monkeypatch.setattr("sslkit.data.cache.MAX_RESIDENT_BYTES", 0)
    images = OpenedDataset(data).load("train")
    assert images is not None
    torch.testing.assert_close(next(Loader(images, batch_size=4, device=CPU, num_workers=1).in_order()).images, expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((13, 12, 10), "uint16", {}),  # a page each: Pillow reads the first
        ((12, 10, 13), "uint8", {"planarconfig": "contig"}),
        ((12, 10, 13), "uint16", {"planarconfig": "contig"}),
    ],
)
def test_what_pillow_does_not_read_names_the_decoder(folder, shape, dtype, options):
    tifffile.imwrite(folder / "train" / "a" / "0.tif", numbers(*shape, dtype=dtype), photometric="minisblack", **options)
    with pytest.raises(DataError) as error:
        ImageFolder(root=str(folder), **{**BANDS, "decoder": None}).load("train").read([0])  # pyright: ignore[reportOptionalMemberAccess]
    assert str(error.value).startswith(f"{folder}/train/a/0.tif: ")
    assert str(error.value).endswith('set decoder = "tiff" in [data], which needs tifffile: pip install "sslkit[tiff]"')


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((12, 10, 13), {"planarconfig": "contig"}),
        ((13, 12, 10), {"planarconfig": "separate"}),
        ((13, 12, 10), {"planarconfig": "separate", "compression": "deflate"}),  # Pillow would read the first plane as gray
    ],
)
def test_bands_are_neither_damaged_nor_gray(tmp_path, shape, options, dtype):
    tifffile.imwrite(tmp_path / "0.tif", numbers(*shape, dtype=dtype), photometric="minisblack", **options)
    with pytest.raises(DataError) as error:
        measure_data(ImageFolder(root=str(tmp_path), image_size=8))
    assert "(damaged" not in str(error.value)
    assert 'set color = "bands", and set decoder = "tiff" in [data]' in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"window": None},
            "its pixels are uint16, and no window says which values are black and white; set window = [low, high] in [data]",
        ),
        ({"mean": (0.5,) * 12, "std": (0.5,) * 12}, "it has 13 channels, and the data says 12 bands; state one value of mean and std"),
        ({"color": "rgb", "mean": None, "std": None}, 'it has 13 channels, which are neither gray nor rgb; set color = "bands" in [data]'),
        ({"max_pixels": 119}, "is too large; found '10 x 12: 120 pixels'; allowed: 119 pixels"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_their_headers(folder, options, message, monkeypatch):
    monkeypatch.setattr(Tiff, "decode", lambda *_: pytest.fail("decoded"))
    images = ImageFolder(root=str(folder), **{**BANDS, **options}).load("train")
    assert images is not None
    with pytest.raises(DataError) as error:
        images.read([0])
    assert str(error.value).startswith(f"{folder}/train/a/0.tif")
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"II*\0nonsense", b"no TIFF at all"])
def test_damaged_files_are_named_or_skipped(folder, content, capfd):
    (folder / "train" / "a" / "0.tif").write_bytes(content)
    images = ImageFolder(root=str(folder), **BANDS).load("train")
    assert images is not None
    with pytest.raises(DataError, match=r"train/a/0\.tif cannot be decoded \(.+\); repair or delete the file, or set on_error = \"skip\""):
        images.read([0])
    skipping = ImageFolder(root=str(folder), on_error="skip", **BANDS).load("train")
    assert skipping is not None
    assert skipping.skipped == ("a/0.tif",)
    assert capfd.readouterr() == ("", "")


def test_the_duplicates_check_and_fingerprints_know_decoders(folder):
    (folder / "test" / "b" / "copy.tif").write_bytes((folder / "train" / "a" / "0.tif").read_bytes())
    opened = OpenedDataset(ImageFolder(root=str(folder), **BANDS))
    train, test = opened.load("train"), opened.load("test")
    assert train is not None
    assert test is not None
    found = opened.duplicates(train, test, lambda _: None)
    assert found is not None
    assert found.num_test_images == 1
    other = ImageFolder(root=str(folder), **{**BANDS, "window": (0.0, 5_000.0)}).load("train")
    assert other is not None
    assert other.fingerprint != train.fingerprint


@final
@dataclass(frozen=True, kw_only=True)
class Npy(ImageDecoder):
    """Another format, of files that nothing else reads.

    Attributes:
        lie: announce twice the rows.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    lie: bool = False

    def header(self, file: BinaryIO) -> ImageHeader:
        array = np.load(file, allow_pickle=False)
        return ImageHeader(array.shape[1] * (1 + self.lie), array.shape[2], array.shape[0], array.dtype.name)

    def decode(self, file: BinaryIO) -> np.ndarray:
        return np.load(file, allow_pickle=False)


def test_a_decoder_brings_its_suffixes_along(tmp_path):
    values = numbers(2, 5, 4, dtype="float32")
    np.save(tmp_path / "x.npy", values)
    options: dict[str, Any] = {"root": str(tmp_path), "image_size": (5, 4), "color": "bands", "mean": (0.5, 0.5), "std": (0.5, 0.5)}
    images = ImageFolder(**options, window=(0, 1), decoder=Npy()).load("pretrain")
    assert images is not None
    assert np.array_equal(images.read([0])[0].numpy(), values)
    with pytest.raises(DataError, match=r"holds no images; allowed: files that end in \.bmp, .* at any depth"):
        ImageFolder(**options).load("pretrain")
    liar = ImageFolder(**options, window=(0, 1), decoder=Npy(lie=True)).load("pretrain")
    assert liar is not None
    with pytest.raises(
        DataError, match=r"x\.npy cannot be decoded \(its header announces \(10, 4, 2, 'float32'\), and its pixels are \(5, 4"
    ):
        liar.read([0])
