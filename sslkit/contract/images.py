"""What datasets hand over: images, labels, and what is known about them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Literal, NamedTuple, final

import numpy as np
from torch import Tensor

from sslkit.contract.checks import Checked, Contract
from sslkit.contract.errors import OptionError

Color = Literal["rgb", "gray", "lightness"]
CHANNELS: dict[str, int] = {"rgb": 3, "gray": 1, "lightness": 1}
"""The number of channels of each colour."""

Window = tuple[float, float]
"""The pixel values that become 0 and 1; values outside are clamped."""

Split = Literal["pretrain", "train", "test"]


class ImageSpec(NamedTuple):
    """What a backbone is built for, or what a dataset holds.

    Attributes:
        height: rows, in pixels.
        width: columns, in pixels.
        color: ``rgb`` (3 channels), ``gray`` or ``lightness`` (CIE L* / 100; 1 channel each); None: bands, which are not colours,
            such as those of a satellite or a microscope; as many as ``mean`` has.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    height: int
    width: int
    color: Color | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_chs(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def meaning(self) -> str:
        """Such images in words: ``rgb images``, ``images of 13 bands``."""
        return f"{self.color} images" if self.color else f"images of {self.num_chs} band{'s' * (self.num_chs != 1)}"


class DataInfo(NamedTuple):
    """What a pretext task may know of the data before any pixel is read."""

    image: ImageSpec
    num_images: int | None
    """How many images there are; None for a stream of unknown length."""


class Batch(NamedTuple):
    """Images as the loader hands them over: on the compute device, augmented once, without labels.

    Attributes:
        images: (N, C, H, W) uint8, or float32 in [0, 1] where the data states a window.
        indices: (N,) int64, each image's stable position in its dataset.
    """

    images: Tensor
    indices: Tensor


class ImageSet(Contract):
    """One split of a dataset: an indexable collection of images of one size, with labels or without.

    Attributes:
        image: size, colour and statistics.
        labels: (len(self),) int64 on the CPU, or None.
        classes: the class names, in the order of the labels; empty without labels.
        fingerprint: changes when the images or labels do; goes into a stage's fingerprint.
        skipped: files left out because they could not be decoded.
        notes: what else a user should know of how these images were found, a sentence each.
        pixels: (len(self), C, H, W) on the CPU where all images are in memory, of a dtype that ``read`` may return; else None.
        window: the pixel values that become 0 and 1 on the compute device. Evaluators get images that are already scaled, as float32.
        display: the channels to draw as red, green and blue, or the only one to draw; empty: the first three, or of fewer the first.
    """

    image: ImageSpec
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pixels: Tensor | None = None
    window: Window | None = None
    display: tuple[int, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Tensor:
        """Decode images. Called in loader workers for large data.

        Returns:
            (len(indices), C, H, W) on the CPU: uint8; with a ``window`` uint8, uint16 or float32 of any values.

        Raises:
            DataError: a file cannot be decoded; the message names it.
        """


class ImageHeader(NamedTuple):
    """What a file's header says of its image.

    Attributes:
        height: rows, in pixels.
        width: columns, in pixels.
        num_chs: channels.
        dtype: NumPy's name of the pixels' type.
    """

    height: int
    width: int
    num_chs: int
    dtype: str


class ImageDecoder(Checked, Contract):
    """Reads image files of a format that sslkit does not support, or supports in part: ``decoder`` of an ``image_folder``.

    Concrete decoders are final frozen dataclasses; their fields are the options. A decoder is sent to worker processes. Whatever it raises
    means that a file cannot be decoded, and is reported with the file's name.

    Attributes:
        suffixes: of the files that it reads instead of sslkit, in lower case: ``(".tif", ".tiff")``.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def header(self, file: BinaryIO) -> ImageHeader:
        """Read size, channels and type from the header alone: files that are too large are then never decoded.

        Args:
            file: open at its beginning.
        """

    @abstractmethod
    def decode(self, file: BinaryIO) -> np.ndarray:
        """Read the pixels.

        Args:
            file: open at its beginning.

        Returns:
            (C, H, W), of any integer or floating-point type, as ``header`` says.
        """


class LabeledData(NamedTuple):
    """What an evaluator measures with: both sets have labels of the same classes, unless the evaluator needs none."""

    train: ImageSet
    test: ImageSet

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.train.classes)


class Dataset(Checked, Contract):
    """Where images come from. Concrete datasets are final frozen dataclasses; their fields are the options of ``[data]``."""

    @abstractmethod
    def image(self) -> ImageSpec:
        """What the images will be, without reading a pixel."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet | None:
        """Open one split; decoding may wait until the images are read.

        Args:
            split: ``pretrain`` (labels are ignored), ``train`` or ``test``.

        Returns:
            The images, or None if there is no such split (``test`` of a folder without labels).

        Raises:
            DataError: the data is not there and cannot be fetched; the message says which files to put where.
        """

    def why_unlabeled(self, split: Split) -> str:
        """Why ``load`` gives no images, or none with labels, for a split that an evaluation needs; empty where there is nothing to add."""
        return ""

    def available(self) -> bool:
        """Whether ``load`` needs no download. ``sslkit check`` never downloads."""
        return True


@final
@dataclass(frozen=True, kw_only=True)
class Augment(Checked):
    """The basic augmentation, done once per image before ``make_views``, on whole uint8 batches.

    Attributes:
        crop_padding: pixels of zero padding on each side before a random crop back to the image's size; 0: no crop.
        horizontal_flip: mirror each image with probability 0.5.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise OptionError("crop_padding", "must not be negative", found=self.crop_padding, allowed="0 or more pixels")
