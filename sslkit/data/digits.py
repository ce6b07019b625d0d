"""scikit-learn's handwritten digits: small enough for a test, and there without a download."""

import importlib
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.contract.errors import OptionError
from sslkit.contract.images import Dataset, ImageSpec, Split
from sslkit.data.arrays import ArraySet

SIDE = 8  # pixels, as they come
MAX_SIDE = 256  # pixels; all images are in memory at once
LEVELS = 16  # the largest value, white
MEAN, STD = (0.3052,), (0.3760,)  # of the training images


@final
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 gray images of handwritten digits, 8 x 8 pixels (the test set of UCI's optical recognition of handwritten digits).

    Every fifth image of each class, in the order of the data set, is in ``test``; the others are in ``train`` and ``pretrain``.

    Attributes:
        image_size: height and width in pixels. Above 8, images are interpolated bilinearly.
    """

    image_size: int = SIDE

    def __post_init__(self) -> None:
        if self.image_size < SIDE:
            raise OptionError("image_size", "the digits are not made smaller", found=self.image_size, allowed=f"{SIDE} pixels or more")
        if self.image_size > MAX_SIDE:
            raise OptionError("image_size", "the digits have no more to show", found=self.image_size, allowed=f"at most {MAX_SIDE} pixels")

    def image(self) -> ImageSpec:
        """Gray squares, with the statistics of the training images as they come."""
        return ImageSpec(self.image_size, self.image_size, "gray", MEAN, STD)

    def load(self, split: Split) -> ArraySet:
        """Read the digits from scikit-learn; every split exists."""
        # Imported late: scikit-learn takes seconds, and this module is loaded at every start, for the list of data sets.
        digits = importlib.import_module("sklearn.datasets").load_digits()
        labels = torch.from_numpy(digits.target.astype(np.int64))
        chosen = _every_fifth(labels) == (split == "test")
        pixels = _resize(torch.from_numpy(digits.images)[chosen].unsqueeze(1), self.image_size)
        images = ArraySet(pixels, self.image(), labels=labels[chosen], classes=tuple(str(name) for name in digits.target_names))
        return images.without_labels() if split == "pretrain" else images


def _every_fifth(labels: Tensor) -> Tensor:
    """(N,) bool: the 5th, 10th ... image of each class."""
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        chosen[(labels == label).nonzero().flatten()[4::5]] = True
    return chosen


def _resize(images: Tensor, side: int) -> Tensor:
    """(N, 1, 8, 8) values 0 to 16 -> (N, 1, side, side) uint8."""
    pixels = images.float() * (255 / LEVELS)
    if side != SIDE:
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear")  # only ever larger: there is nothing to alias
    return pixels.round().to(torch.uint8)
