"""Contentless images to train on, and others to measure on."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sslkit.audit.sources import COPIES, NOISE, Shape
from sslkit.audit.spectrum import measure_spectrum
from sslkit.contract.errors import DataError
from sslkit.contract.images import Dataset, ImageSet
from sslkit.training.seeds import derive_seed, make_generator

MEASURED_IMAGES = 1024
"""Noise knows the data by its statistics, and so many images are enough for those."""


class Samples(NamedTuple):
    """Two disjoint sets of images.

    Attributes:
        train: (N, C, H, W) uint8.
        heldout: (M, C, H, W) uint8.
    """

    train: Tensor
    heldout: Tensor


def draw_samples(source: str, data: Dataset, num_images: int, seed: int) -> Samples:
    """Make ``num_images`` to train on, and half as many to measure on, of one source.

    What is made of the data's images takes those to measure on from another split where there is one, and in any case from other images.
    Where the data has fewer images, there are fewer of both.

    Args:
        source: one of ``SOURCES``.
        data: where statistics or images come from.
        num_images: how many to train on.
        seed: of everything that is drawn.

    Raises:
        DataError: the data has no images to pretrain on.
    """
    images = data.load("pretrain")
    if images is None:
        raise DataError("the data set has no images to pretrain on")
    num_heldout = num_images // 2
    generator = make_generator(derive_seed(seed, "audit", "samples"))
    if source in NOISE:
        spectrum = measure_spectrum(_read(images, _shuffled(images, generator)[:MEASURED_IMAGES]))
        noise = NOISE[source](spectrum, Shape(num_images + num_heldout, images.image.height, images.image.width), generator)
        return Samples(noise[:num_images], noise[num_images:])
    originals = _originals(images, data.load("test"), num_images, num_heldout, generator)
    return Samples(*(COPIES[source](part, generator) for part in originals))


def _originals(images: ImageSet, others: ImageSet | None, num_images: int, num_heldout: int, generator: Generator) -> Samples:
    """Images of the data; without a split of other images, a third of these is held out at most."""
    order = _shuffled(images, generator)
    if others is not None:
        return Samples(_read(images, order[:num_images]), _read(others, _shuffled(others, generator)[:num_heldout]))
    heldout = min(num_heldout, len(order) // 3)
    return Samples(_read(images, order[heldout:][:num_images]), _read(images, order[:heldout]))


def _shuffled(images: ImageSet, generator: Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator)


def _read(images: ImageSet, indices: Tensor) -> Tensor:
    return images.read(indices.tolist())
