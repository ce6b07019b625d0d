from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sslkit.data.cache as module
from sslkit import Dataset, ImageSet, ImageSpec, Split
from sslkit.data import file_set
from sslkit.data.arrays import Arrays
from sslkit.data.cache import OpenedDataset
from sslkit.data.duplicates import Duplicates
from sslkit.data.image_folder import ImageFolder
from tests.contract.miniatures.images import TinyImages, tiny_images
from tests.data.folders import make

PIXELS = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)


class Counting(Dataset):
    """Images that are decoded when they are asked for; writes down what was loaded and read."""

    def __init__(self, num_images: int = 11, *, resident: bool = False) -> None:
        self.loaded: list[str] = []
        self.read: list[int] = []
        self._num_images = num_images
        self._resident = resident

    def image(self) -> ImageSpec:
        return tiny_images(1).image

    def available(self) -> bool:
        return False

    def load(self, split: Split) -> ImageSet | None:
        self.loaded.append(split)
        if split == "test":
            return None
        images = Recording(tiny_images(self._num_images).read(range(self._num_images)), self.read, resident=self._resident)
        images.labels = torch.arange(self._num_images) % 3
        images.classes = ("a", "b", "c")
        images.skipped = ("broken.png",)
        return images


class Recording(TinyImages):
    def __init__(self, pixels: Tensor, indices: list[int], *, resident: bool) -> None:
        super().__init__(pixels, resident=resident)
        self.indices = indices

    def read(self, indices: Sequence[int]) -> Tensor:
        self.indices += indices
        return super().read(indices)


def opened(data: Dataset, split: Split = "train") -> Any:
    return OpenedDataset(data).load(split)


def test_every_split_is_loaded_once_and_only_when_asked_for():
    data = Counting()
    dataset = OpenedDataset(data)
    assert data.loaded == []
    first = dataset.load("train")
    assert dataset.load("train") is first
    assert [dataset.load("test"), dataset.load("test")] == [None, None]
    assert data.loaded == ["train", "test"]


def test_it_says_what_the_dataset_says():
    data = Counting()
    assert OpenedDataset(data).image() == data.image()
    assert not OpenedDataset(data).available()
    assert data.loaded == []


def test_all_but_the_pixels_is_known_without_decoding():
    data = Counting()
    images = opened(data)
    assert len(images) == 11
    assert (images.image, images.classes, images.skipped) == (data.image(), ("a", "b", "c"), ("broken.png",))
    assert images.fingerprint == Counting().load("train").fingerprint
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert data.read == []


def test_small_images_are_decoded_once_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_CHUNK", 4)
    data = Counting()
    images = opened(data)
    assert torch.equal(images.pixels, tiny_images(11).read(range(11)))
    assert images.pixels is images.pixels
    assert sorted(data.read) == list(range(11))


def test_what_is_in_memory_is_not_decoded_again():
    data = Counting()
    images = opened(data)
    assert torch.equal(images.read([3, 1]), tiny_images(11).read([3, 1]))
    assert data.read == [3, 1], "a few images are read without the others"
    assert images.pixels is not None
    data.read.clear()
    assert torch.equal(images.read([3, 1]), tiny_images(11).read([3, 1]))
    assert data.read == []


@pytest.mark.parametrize("resident", [True, False])
def test_the_same_images_with_labels_and_without_are_decoded_and_kept_once(resident: bool):
    data = Counting(resident=resident)
    dataset = OpenedDataset(data)
    pretrain, train = dataset.load("pretrain"), dataset.load("train")
    assert pretrain.pixels is train.pixels
    assert pretrain.source is train.source
    assert sorted(data.read) == ([] if resident else list(range(11)))
    assert (pretrain.labels, train.classes) == (None, ("a", "b", "c"))
    assert torch.equal(train.read([3, 1]), tiny_images(11).read([3, 1]))


def test_files_of_both_splits_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, *(f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(3)), "unlabeled/1.png")
    decoded: list[str] = []
    monkeypatch.setattr(file_set, "decode", lambda path, *_, **__: decoded.append(path.name) or torch.zeros(3, 4, 4, dtype=torch.uint8))
    for options, number in (({"train": "train", "unlabeled": "train"}, 6), ({}, 6 + 1)):
        decoded.clear()
        dataset = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4, **options))
        splits = [dataset.load(split) for split in ("pretrain", "train")]
        assert [images.pixels is not None for images in splits if images is not None] == [True, True]
        assert len(decoded) == number


@pytest.mark.parametrize(("limit", "resident"), [(11 * 3 * 16 * 16, True), (11 * 3 * 16 * 16 - 1, False)])
def test_large_images_stay_where_they_are(limit: int, resident: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_RESIDENT_BYTES", limit)
    data = Counting()
    images = opened(data)
    assert (images.pixels is not None) == resident
    assert bool(data.read) == resident
    assert torch.equal(images.read([3, 1]), tiny_images(11).read([3, 1]))


def test_images_that_are_in_memory_already_are_not_copied():
    data = Counting(resident=True)
    images = opened(data)
    assert images.pixels is images.source.pixels
    assert data.read == []


@pytest.mark.parametrize(("train", "test", "num"), [([0, 1, 2, 3, 4], [1, 3], 2), ([0, 1, 2], [3, 4], 0)], ids=["some", "none"])
def test_splits_are_compared_once_and_duplicates_reported_of_once(train: list[int], test: list[int], num: int):
    data = Arrays(train_images=PIXELS[train], train_labels=range(len(train)), test_images=PIXELS[test], test_labels=range(len(test)))
    dataset = OpenedDataset(data)
    splits = dataset.load("train"), dataset.load("test")
    told: list[Duplicates] = []
    found = [dataset.duplicates(*splits, told.append) for _ in range(2)]
    assert found[0] is found[1]
    assert (found[0].num_test_images, found[0].same) == (num, "pixels")
    assert told == found[:1] * bool(num)
    assert dataset.duplicates(splits[0], splits[0], told.append) is None
    assert len(told) == bool(num)
