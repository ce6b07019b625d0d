"""The images of a report: a few queries of different classes, and many others to find their neighbours among."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sslkit.contract.images import Dataset, ImageSet, ImageSpec
from sslkit.report.pictures.grid import drawable

NUM_QUERIES = 8
MAX_OTHERS = 2_000
MAX_PIXELS = 50_000_000
"""Of all images together: they have to be decoded. 1,000 images of 224 x 224 pixels."""

T = TypeVar("T")


class ImageSample(NamedTuple):
    """Images of one dataset, each decoded once."""

    images: Tensor  # (N, C, H, W) uint8, or float in [0, 1], on the CPU; the queries come first
    labels: Tensor | None  # (N,) int64
    classes: tuple[str, ...]  # empty without labels
    image: ImageSpec
    num_queries: int
    display: tuple[int, ...] = ()

    @property
    def queries(self) -> Tensor:
        """(Q, C, H, W)."""
        return self.images[: self.num_queries]

    def drawn(self, images: Tensor) -> Tensor:
        """The channels to draw of (M, C, H, W) images of the sample."""
        return drawable(images, self.image.num_chs, self.display)


def sample_images(data: Dataset) -> ImageSample | None:
    """Choose and decode held-out images, or those of pretraining where nothing is held out; None where there are none."""
    images = data.load("test") or data.load("pretrain")
    if images is None or len(images) == 0:
        return None
    queries = choose_queries(images)
    others = torch.ones(len(images), dtype=torch.bool)
    others[queries] = False
    room = MAX_PIXELS // (images.image.height * images.image.width)
    # Spread over the set, as folders of images are ordered by class.
    indices = [*queries, *spread(others.nonzero().flatten().tolist(), min(MAX_OTHERS, room))]
    labels = None if images.labels is None else images.labels[indices]
    return ImageSample(images.read(indices), labels, images.classes, images.image, len(queries), images.display)


def choose_queries(images: ImageSet) -> list[int]:
    """The first image of each class, then the second of each; of many classes, some. Without labels, images far apart."""
    num = min(NUM_QUERIES, (len(images) + 1) // 2)  # some must be left over to be neighbours
    if images.labels is None:
        return spread(range(len(images)), num)
    classes = spread(images.labels.unique().tolist(), num)
    members = [(images.labels == label).nonzero().flatten()[:num].tolist() for label in classes]
    by_turns = [of_class[turn] for turn in range(num) for of_class in members if turn < len(of_class)]
    return by_turns[:num]


def spread(items: Sequence[T], num: int) -> list[T]:
    """At most ``num`` of the items, evenly spaced from the first to the last."""
    if len(items) <= num:
        return list(items)
    if num <= 1:
        return list(items[:num])
    return [items[round(i * (len(items) - 1) / (num - 1))] for i in range(num)]
