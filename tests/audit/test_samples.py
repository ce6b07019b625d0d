from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor

from sslkit import Arrays, DataError, Dataset, ImageSet, ImageSpec, Split
from sslkit.audit.sources import SOURCES
from sslkit.audit.task_audit import MEASURED_IMAGES, draw_samples

SPEC = ImageSpec(8, 8, "gray", (0.5,), (0.2,))


class Numbered(ImageSet):
    """Images whose first value is their number's, for scrambled ones their mean; counts what is read."""

    def __init__(self, num_images: int, first: int) -> None:
        self.image = SPEC
        self.fingerprint = "numbered"
        self.reads: list[int] = []
        self._num_images = num_images
        self._first = first

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Sequence[int]) -> Tensor:
        self.reads += indices
        values = torch.tensor(indices, dtype=torch.int64) % 200 + self._first
        return values.to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)


@final
@dataclass(frozen=True, kw_only=True)
class NumberedData(Dataset):
    splits: dict[Split, ImageSet]

    def image(self) -> ImageSpec:
        return SPEC

    def load(self, split: Split) -> ImageSet | None:
        return self.splits.get(split)


def test_noise_reads_a_bounded_number_of_images():
    for source in ("isotropic_noise", "jpeg_noise"):
        images = Numbered(100_000, 0)
        samples = draw_samples(source, NumberedData(splits={"pretrain": images}), 300, 0)
        assert samples.train.shape == (300, 1, 8, 8)
        assert samples.heldout.shape == (150, 1, 8, 8)
        assert len(images.reads) == len(set(images.reads)) == MEASURED_IMAGES


@pytest.mark.parametrize("source", ["phase_scrambled", "shuffled_patches"])
def test_copies_to_measure_on_come_from_another_split(source):
    images, others = Numbered(100, 0), Numbered(100, 100)
    samples = draw_samples(source, NumberedData(splits={"pretrain": images, "test": others}), 40, 0)
    assert (len(samples.train), len(samples.heldout)) == (40, 20)
    assert samples.train.max() < 100 <= samples.heldout.min()
    assert (len(set(images.reads)), len(set(others.reads))) == (40, 20)


@pytest.mark.parametrize(("num_images", "expected"), [(40, (40, 20)), (90, (67, 33))])
def test_copies_to_measure_on_are_of_other_images_where_there_is_one_split(num_images, expected):
    images = Numbered(100, 0)
    samples = draw_samples("shuffled_patches", NumberedData(splits={"pretrain": images}), num_images, 0)
    assert (len(samples.train), len(samples.heldout)) == expected
    assert not set(samples.train.flatten().tolist()) & set(samples.heldout.flatten().tolist())


def test_of_few_images_there_are_as_many_copies():
    data = NumberedData(splits={"pretrain": Numbered(30, 0), "test": Numbered(7, 100)})
    samples = draw_samples("phase_scrambled", data, 400, 0)
    assert (len(samples.train), len(samples.heldout)) == (30, 7)


@pytest.mark.parametrize("source", SOURCES)
def test_samples_depend_on_the_seed_alone(source):
    pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Arrays(train_images=pixels[:40], test_images=pixels[40:])
    first, again, other = (draw_samples(source, data, 20, seed) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_both_kinds_of_noise_are_of_the_same_noise():
    pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Arrays(train_images=pixels // 2)
    clean, coded = (draw_samples(source, data, 20, 0).train.double() for source in ("isotropic_noise", "jpeg_noise"))
    assert 0 < (clean - coded).abs().mean() < 0.5 * (clean - clean.mean()).abs().mean()


def test_there_must_be_images():
    with pytest.raises(DataError, match="the dataset has no images to pretrain on"):
        draw_samples("isotropic_noise", NumberedData(splits={}), 20, 0)
