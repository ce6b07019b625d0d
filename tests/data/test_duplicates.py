import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sslkit.contract.images import ImageSet, ImageSpec
from sslkit.data import cache
from sslkit.data.arrays import ArraySet
from sslkit.data.cache import ResidentSet
from sslkit.data.duplicates import Duplicates, find_duplicates
from sslkit.data.file_set import FileSet
from tests.data.folders import find_images

SPEC = ImageSpec(4, 4, "gray", (0.5,), (0.25,))


def few_values(num_images: int, seed: int) -> Tensor:
    """(N, 1, 4, 4) uint8 of which many are the same: only two pixels vary, with 10 values each."""
    pixels = torch.zeros(num_images, 16, dtype=torch.uint8)
    pixels[:, [3, 15]] = torch.randint(0, 10, (num_images, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return pixels.view(-1, 1, 4, 4)


def naive(train: Tensor, test: Tensor) -> list[tuple[int, int]]:
    """Every test image with the first training image that it equals."""
    pairs = []
    for index, image in enumerate(test):
        same = [twin for twin, other in enumerate(train) if torch.equal(image, other)]
        pairs += [(index, same[0])] if same else []
    return pairs


@pytest.mark.parametrize(("num_train", "num_test"), [(60, 600), (600, 60), (1, 1), (300, 1)])
def test_images_in_memory_are_compared_by_their_pixels(num_train, num_test):
    train, test = few_values(num_train, 1), few_values(num_test, 2)
    pairs = naive(train, test)
    found = find_duplicates(ArraySet(train, SPEC), ArraySet(test, SPEC))
    examples = tuple((f"image {index:,}", f"image {twin:,}") for index, twin in pairs[:3])
    assert found == Duplicates(len(pairs), examples, "pixels")


def test_images_that_are_no_rows_of_memory_are_compared_too():
    pixels = few_values(40, 1).transpose(0, 3).contiguous().transpose(0, 3)
    assert not pixels.is_contiguous()
    found = find_duplicates(ArraySet(pixels, SPEC), ArraySet(pixels.contiguous(), SPEC))
    assert found.num_test_images == 40


def write(folder: Path, contents: Sequence[bytes]) -> FileSet:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number:03d}.jpg").write_bytes(content)
    return FileSet(folder, find_images(folder), SPEC)


def random_contents(seed: int) -> list[bytes]:
    """Files of few sizes, some beyond what is read first, that often differ in their last byte alone."""
    random = np.random.default_rng(seed)
    return [bytes(int(random.choice([10, 4096, 4097, 9000])) - 1) + bytes([random.integers(4)]) for _ in range(300)]


def test_files_are_compared_byte_by_byte(tmp_path):
    train, test = random_contents(1)[:8], random_contents(2)
    pairs = [(index, train.index(content)) for index, content in enumerate(test) if content in train]
    assert 0 < len(pairs) < 300
    found = find_duplicates(write(tmp_path / "train", train), write(tmp_path / "test", test))
    examples = tuple(
        (str(tmp_path / "test" / f"{index:03d}.jpg"), str(tmp_path / "train" / f"{twin:03d}.jpg")) for index, twin in pairs[:3]
    )
    assert found == Duplicates(len(pairs), examples, "bytes")


def test_only_files_that_may_be_the_same_are_opened(tmp_path, monkeypatch):
    train = write(tmp_path / "train", [b"a", b"bb", b"x" * 9000, b"y" * 9000])
    test = write(tmp_path / "test", [b"cc", b"ddd", b"x" * 8999 + b"!", b"z" * 9000])
    opened = []
    monkeypatch.setattr("sslkit.data.duplicates.open_regular", lambda path: opened.append(path.parent.name + path.stem) or path.open("rb"))
    found = find_duplicates(train, test)
    assert found.num_test_images == 0
    first_round = ["train001", "test000", "train002", "train003", "test002", "test003"]
    assert sorted(opened) == sorted([*first_round, "train002", "test002"])


def test_files_that_cannot_be_read_are_nobodys_duplicates(tmp_path):
    train, test = write(tmp_path / "train", [b"", b"aa", b"bb"]), write(tmp_path / "test", [b"", b"aa", b"bb"])
    (tmp_path / "test" / "001.jpg").unlink()
    (tmp_path / "train" / "002.jpg").unlink()
    os.mkfifo(tmp_path / "train" / "002.jpg")
    assert find_duplicates(train, test) == (0, (), "bytes")


def saved(folder: Path, pixels: Tensor, suffix: str) -> ImageSet:
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:03d}.{suffix}")
    return ResidentSet(FileSet(folder, find_images(folder), SPEC), "files")


def test_decoded_files_are_compared_by_pixels_and_named(tmp_path):
    """The same picture in two formats is one picture."""
    train, test = few_values(30, 1), few_values(20, 2)
    pairs = naive(train, test)
    found = find_duplicates(saved(tmp_path / "train", train, "png"), saved(tmp_path / "test", test, "bmp"))
    assert (found.num_test_images, found.same) == (len(pairs), "pixels")
    index, twin = pairs[0]
    assert found.describe() == f"same pixels, for example {tmp_path / 'test'}/{index:03d}.bmp = {tmp_path / 'train'}/{twin:03d}.png"


def test_files_too_many_to_decode_are_compared_as_files(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_RESIDENT_BYTES", 0)
    found = find_duplicates(saved(tmp_path / "train", few_values(30, 1), "png"), saved(tmp_path / "test", few_values(20, 2), "png"))
    assert (found.num_test_images, found.same) == (len(naive(few_values(30, 1), few_values(20, 2))), "bytes")


class Stream(ImageSet):
    """Images that are made when they are read."""

    image, fingerprint = SPEC, "stream"

    def __len__(self) -> int:
        return 3

    def read(self, indices: Sequence[int]) -> Tensor:
        raise AssertionError("a pixel was read")


def test_what_is_neither_in_memory_nor_in_files_is_not_compared():
    assert find_duplicates(Stream(), Stream()) is None
