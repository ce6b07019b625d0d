"""Images in memory: a split as one tensor, and a dataset made of Python arrays."""

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.images import CHANNELS, Color, Dataset, ImageSet, ImageSpec, Split, Window
from sslkit.data.image_options import check_display, check_statistics, check_window
from sslkit.data.moments import Moments
from sslkit.data.validation import STORED
from sslkit.data.window import take

ArrayLike = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int]

SHAPES = "(N, H, W) or (N, C, H, W); numpy arrays also (N, H, W, C)"

Channels = Literal["rgb", "gray", "bands"]
"""What the channels of images are; bands are not colours."""


@final
class ArraySet(ImageSet):
    """A split that is in memory: (N, C, H, W) pixels, kept, not copied, and (N,) int64 labels or None, all on the CPU.

    Pixels are uint8; with a ``window`` uint8, uint16 or float32.
    """

    def __init__(
        self,
        pixels: Tensor,
        image: ImageSpec,
        *,
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        window: Window | None = None,
        display: tuple[int, ...] = (),
    ) -> None:
        expected = (image.num_chs, image.height, image.width)
        if pixels.dtype not in (STORED if window else STORED[:1]) or pixels.shape[1:] != expected:
            found, types = f"{pixels.dtype} {tuple(pixels.shape)}", "uint8, uint16 or float32" if window else "uint8"
            raise DataError("pixels do not fit the image spec", found=found, allowed=f"{types} (N, *{expected})")
        if labels is not None and labels.shape != pixels.shape[:1]:
            raise DataError("there must be one label per image", found=f"{tuple(labels.shape)} labels", allowed=f"({len(pixels)},)")
        self._pixels = self.pixels = pixels
        self.image = image
        self.labels = labels
        self.classes = classes
        self.window = window
        self.display = display

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Copy some images out: (len(indices), C, H, W)."""
        return take(self._pixels, torch.as_tensor(indices, dtype=torch.int64))

    def without_labels(self) -> "ArraySet":
        """The same images, for pretraining: their fingerprint does not change with the labels."""
        return ArraySet(self._pixels, self.image, window=self.window, display=self.display)

    @cached_property
    def fingerprint(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """SHA-256 of everything that a result depends on. Hashing gigabytes can wait until somebody asks."""
        kind = () if self._pixels.dtype == torch.uint8 and self.window is None else (str(self._pixels.dtype), self.window)
        digest = hashlib.sha256(repr((tuple(self._pixels.shape), tuple(self.image), self.classes, *kind)).encode())
        for tensor in (self._pixels, self.labels):
            digest.update(b"" if tensor is None else tensor.contiguous().numpy().data)
        return digest.hexdigest()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays(Dataset):
    """Images that are already in memory, for use from Python: a recipe cannot name it.

    Images are uint8, or floats in [0, 1], which are rounded to uint8; with a ``window`` they are numbers of any type, kept as uint8, uint16
    or float32. They have the shape (N, C, H, W), or (N, H, W); numpy arrays may also be channels-last, (N, H, W, C). Where the axis of
    the channels is ambiguous, it is the one that leaves square images, else the shorter one; ``mean`` settles it. Arrays that fit are
    kept, not copied: one that is written into afterwards is refused when it is loaded.

    Attributes:
        train_images: the images to train on, with and without labels.
        train_labels: (N,) integers from 0 to K - 1, or None.
        test_images: held-out images of the same size and colour, or None.
        test_labels: their labels; needed for both splits or for neither.
        classes: the names of the K classes; by default "0", "1" ...
        mean: per channel, of values in [0, 1]; by default the mean of ``train_images``.
        std: per channel, of values in [0, 1]; by default that of ``train_images``, but at least 1/255, for constant images too.
        color: what the channels are; None: one is gray, three are RGB, and any other number are bands, which are not colours.
        window: the pixel values that become 0 and 1, such as ``(0, 10_000)`` of 16-bit images; None: 0 and 255 of uint8, 0 and 1 of floats.
        display: the channels to draw in reports, three or one; empty: the first three, or of fewer the first.
    """

    train_images: ArrayLike
    train_labels: Labels | None = None
    test_images: ArrayLike | None = None
    test_labels: Labels | None = None
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: Channels | None = None
    window: tuple[float, float] | None = None
    display: tuple[int, ...] = ()
    _train: ArraySet = field(init=False, repr=False)
    _test: ArraySet | None = field(init=False, repr=False)
    _sums: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_window(self.window)
        pixels = self._to_pixels("train_images", self.train_images)
        num_chs, height, width = pixels.shape[1:]
        names: dict[int, Color] = {1: "gray", 3: "rgb"}
        color: Color | None = names.get(num_chs) if self.color is None else None if self.color == "bands" else self.color
        if color is not None and CHANNELS[color] != num_chs:
            raise OptionError("color", "does not fit the images", found=color, allowed=f"bands: there are {num_chs} channels")
        check_statistics(num_chs, self.mean, self.std)
        check_display(num_chs, self.display)
        mean, std = self.mean, self.std
        if mean is None or std is None:
            measured = channel_statistics(pixels, self.window)
            mean, std = mean or measured[0], std or measured[1]
        spec = ImageSpec(height, width, color, tuple(mean), tuple(std))
        labels = _to_labels("train_labels", self.train_labels, len(pixels))
        test_pixels = test_labels = None
        if self.test_images is not None:
            if (self.train_labels is None) != (self.test_labels is None):
                raise OptionError("test_labels", "give train_labels and test_labels, or neither")
            test_pixels = self._to_pixels("test_images", self.test_images)
            if test_pixels.shape[1:] != pixels.shape[1:]:
                allowed = f"(N, C, H, W) as train_images: {tuple(pixels.shape)}"
                raise OptionError("test_images", "other size or colour", found=tuple(test_pixels.shape), allowed=allowed)
            test_labels = _to_labels("test_labels", self.test_labels, len(test_pixels))
        elif self.test_labels is not None:
            raise OptionError("test_labels", "there are no test_images")
        classes = _class_names(self.classes, labels, test_labels)
        make = partial(ArraySet, image=spec, classes=classes, window=self.window, display=self.display)
        test = None if test_pixels is None else make(test_pixels, labels=test_labels)
        object.__setattr__(self, "_train", make(pixels, labels=labels))  # frozen: set once, here
        object.__setattr__(self, "_test", test)
        object.__setattr__(self, "_sums", self._checksums())

    def _to_pixels(self, option: str, images: ArrayLike) -> Tensor:
        """Any accepted array -> (N, C, H, W), contiguous, on the CPU; a view of the argument where it is that already."""
        tensor = _to_tensor(option, images, None if self.mean is None else len(self.mean))
        return (_to_uint8(option, tensor) if self.window is None else _to_stored(option, tensor)).contiguous()

    def _checksums(self) -> tuple[object, ...]:
        return tuple(checksum(None if images is None else images.pixels) for images in (self._train, self._test))

    def image(self) -> ImageSpec:
        """Size, colour and statistics of the training images."""
        return self._train.image

    def load(self, split: Split) -> ArraySet | None:
        """``train`` is None without labels, ``test`` without test images.

        Raises:
            DataError: the images were written into after this object was made of them.
        """
        for name, found, expected in zip(("train_images", "test_images"), self._checksums(), self._sums, strict=True):
            if found != expected:
                raise DataError(f"{name} have changed since these Arrays were made of them", fix="make new Arrays of what they are now")
        if split == "test":
            return self._test
        if split == "pretrain":
            return self._train.without_labels()
        return None if self._train.labels is None else self._train


def checksum(tensor: Tensor | None) -> tuple[object, ...] | None:
    """What changes when a tensor is written into, through torch or NumPy: its CRC-32, piece by piece. A gigabyte takes less than half a
    second. This guards against mistakes, not against tampering.
    """
    if tensor is None:
        return None
    with ThreadPoolExecutor() as pool:  # zlib releases the interpreter lock
        crcs = pool.map(lambda rows: zlib.crc32(rows.cpu().contiguous().numpy().data), tensor.split(4096))
    return tensor.device, tensor.dtype, tensor.shape, *crcs


def channel_statistics(pixels: Tensor, window: Window | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, C, H, W) images, scaled to [0, 1].

    Counting the 256 values of uint8 is exact and needs no copy of the images as floats. The deviation is at least 1/255, so that constant
    images can be normalised.
    """
    if pixels.dtype != torch.uint8 or window is not None:
        moments = Moments(pixels.shape[1])
        for chunk in pixels.split(256):
            moments.add(chunk, window)
        return tuple(moments.mean.tolist()), tuple(moments.std.clamp_min(1 / 255).tolist())
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in pixels.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(float(mean))
        stds.append(max(float((share * (values - mean) ** 2).sum().sqrt()), 1 / 255))
    return tuple(means), tuple(stds)


def _is_channels_last(shape: Sequence[int], num_chs: int | None) -> bool:
    """Whether (N, ?, H, ?) has its channels at the end."""
    first, last = shape[1], shape[3]
    if num_chs is not None and (first == num_chs) != (last == num_chs):
        return last == num_chs
    if first in (1, 3) or last in (1, 3):
        return first not in (1, 3)
    height, width = shape[2], last
    if (height == width) != (first == height):  # images are square more often than not
        return first == height
    return last < first


def _to_tensor(option: str, images: ArrayLike, num_chs: int | None) -> Tensor:
    """Any accepted array -> (N, C, H, W) on the CPU; a view of the argument."""
    channels_last = images.ndim == 4 and _is_channels_last(images.shape, num_chs) if isinstance(images, Tensor | np.ndarray) else False
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "biuf":
            raise OptionError(option, "must be numbers", found=str(images.dtype), allowed="uint8, or floats in [0, 1]")
        array = images.transpose(0, 3, 1, 2) if channels_last else images
        # torch warns of read-only arrays and refuses negative strides and other byte orders; this copies only those.
        tensor = torch.from_numpy(np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"]))
    elif isinstance(images, Tensor):
        tensor = images.detach().cpu()
    else:
        raise OptionError(option, "must be a torch tensor or a numpy array", found=type(images).__name__)
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    if tensor.ndim != 4 or tensor.numel() == 0 or (channels_last and isinstance(images, Tensor)):
        raise OptionError(option, "has a wrong shape", found=tuple(images.shape), allowed=SHAPES)
    return tensor


def _to_uint8(option: str, images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        fix = "convert to uint8, or state the window of their values"
        raise OptionError(option, "has a wrong type", found=str(images.dtype), allowed="uint8, or floats in [0, 1]", fix=fix)
    low, high = (float(value) for value in images.aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        fix = "pass uint8, or floats that are divided by 255 and not normalised, or state the window of their values"
        raise OptionError(option, "floats must lie in [0, 1]", found=f"{low:.3g} to {high:.3g}", fix=fix)
    return images.float().mul(255).round().to(torch.uint8)


def _to_stored(option: str, images: Tensor) -> Tensor:
    """Numbers of any type -> uint8, uint16 or float32."""
    if images.dtype in (torch.uint8, torch.uint16):
        return images
    if images.is_complex():
        raise OptionError(option, "must be numbers", found=str(images.dtype))
    images = images.float()
    if not images.isfinite().all():
        raise OptionError(option, "has values that are not finite", fix="replace them, for example by the lower end of the window")
    return images


def _to_labels(option: str, labels: Labels | None, num_images: int) -> Tensor | None:
    """Any accepted labels -> (N,) int64 on the CPU, a copy."""
    if labels is None:
        return None
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.dtype.kind not in "iu" or array.shape != (num_images,) or array.min() < 0:
        found = f"{array.dtype} {array.shape}" + (f" from {array.min()}" if array.dtype.kind == "i" and array.size else "")
        raise OptionError(option, "must be one class number an image", found=found, allowed=f"integers from 0, ({num_images},)")
    return torch.from_numpy(array.astype(np.int64))


def _class_names(classes: tuple[str, ...], train_labels: Tensor | None, test_labels: Tensor | None) -> tuple[str, ...]:
    given = [labels for labels in (train_labels, test_labels) if labels is not None]
    if not given:
        if classes:
            raise OptionError("classes", "there are no labels", found=classes, fix="give train_labels")
        return ()
    num_classes = 1 + max(int(labels.max()) for labels in given)
    if classes and len(classes) < num_classes:
        raise OptionError("classes", "fewer names than classes", found=classes, allowed=f"at least {num_classes} names")
    return tuple(classes) or tuple(str(label) for label in range(num_classes))
