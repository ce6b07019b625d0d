"""Handwritten digits that ship with sslkit: small enough for a test, and there without a download. ``digits.txt`` says where they are from."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F

from sslkit.contract.errors import OptionError
from sslkit.contract.images import Dataset, ImageSpec, Split
from sslkit.data.arrays import ArraySet
from sslkit.data.image_options import check_statistics
from sslkit.storage.tensor_file import load_tensors

SIDE = 8  # pixels, as they come
MAX_SIDE = 256  # pixels; all images are in memory at once


@final
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 gray images of handwritten digits, 8 x 8 pixels (the test set of UCI's optical recognition of handwritten digits).

    Every fifth image of each class, in the order of the dataset, is in ``test``; the others are in ``train`` and ``pretrain``.

    Attributes:
        image_size: height and width in pixels. Above 8, images are interpolated bilinearly.
        mean: of values in [0, 1]; by default that of the training images as they come.
        std: of values in [0, 1], the same.
    """

    image_size: int = SIDE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.image_size < SIDE:
            raise OptionError("image_size", "the digits are not made smaller", found=self.image_size, allowed=f"{SIDE} pixels or more")
        if self.image_size > MAX_SIDE:
            raise OptionError("image_size", "digits have no more detail", found=self.image_size, allowed=f"at most {MAX_SIDE} pixels")
        check_statistics(1, self.mean, self.std)

    def image(self) -> ImageSpec:
        """Gray squares, with the statistics of the training images as they come."""
        return ImageSpec(self.image_size, self.image_size, "gray", mean=self.mean or (0.3052,), std=self.std or (0.3760,))

    def load(self, split: Split) -> ArraySet:
        """Every split exists."""
        digits, _ = load_tensors(Path(__file__).with_suffix(".safetensors"))
        labels = digits["labels"].long()
        every_fifth = torch.zeros_like(labels, dtype=torch.bool)  # of each class
        for label in labels.unique():
            every_fifth[(labels == label).nonzero().flatten()[4::5]] = True
        chosen = every_fifth if split == "test" else ~every_fifth
        pixels = digits["images"][chosen].unsqueeze(1).float() * (255 / 16)  # 16 is white
        if self.image_size != SIDE:
            pixels = F.interpolate(pixels, size=self.image_size, mode="bilinear")  # only ever larger: there is nothing to alias
        images = ArraySet(pixels.round().to(torch.uint8), self.image(), labels=labels[chosen], classes=tuple("0123456789"))
        return images.without_labels() if split == "pretrain" else images
