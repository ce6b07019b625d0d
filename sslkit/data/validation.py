"""What a dataset hands over, whoever wrote it, made into what the contract says; what cannot be is a ``DataError`` that begins with where."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import CHANNELS, ImageSet, ImageSpec, Window

STORED = (torch.uint8, torch.uint16, torch.float32)
"""Types of pixels that have a window."""


def valid_spec(image: object, where: str) -> ImageSpec:
    """What images are, with their statistics as tuples of floats."""
    if not isinstance(image, ImageSpec):
        raise DataError(f"{where}: image must be an ImageSpec", found=image)
    sides = (image.height, image.width)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError(f"{where}: height and width must be pixels", found=sides, allowed="positive integers")
    if image.color is not None and image.color not in CHANNELS:
        raise DataError(f"{where}: color is not known", found=image.color, allowed=(*CHANNELS, "None, for bands"))
    num_chs = CHANNELS.get(image.color or "") or (len(image.mean) if isinstance(image.mean, Sequence) else 0)
    statistics = {}
    for name, values, interval in (("mean", image.mean, "[0, 1]"), ("std", image.std, "(0, 1]")):
        allowed = f"{num_chs or 'numbers'} in {interval}, one per channel"
        try:
            statistics[name] = tuple(float(value) for value in values)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {name} must be numbers", found=values, allowed=allowed) from error
        within = all(0 <= value <= 1 and (name == "mean" or value > 0) for value in statistics[name])
        if len(statistics[name]) != num_chs or not num_chs or not within:
            raise DataError(f"{where}: {name} does not fit {image.meaning}", found=statistics[name], allowed=allowed)
    return image._replace(**statistics)


def valid_labels(labels: Any, num_images: int, num_classes: int, where: str) -> Tensor:
    """Labels as (N,) int64 on the CPU, a copy; integers of any kind are taken, as a tensor, an array or a sequence."""
    try:
        array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, and tensors without values
        array = None
    if array is None or array.dtype.kind not in "iub":
        kind = str(getattr(labels, "dtype", type(labels).__name__))
        raise DataError(f"{where}: labels must be integers, the numbers of their classes", found=kind, fix="convert them to int64")
    if array.shape != (num_images,):
        raise DataError(f"{where}: there must be one label per image", found=array.shape, allowed=f"({num_images},)")
    if num_images and (array.min() < 0 or array.max() >= num_classes):
        found = f"{array.min()} to {array.max()}"
        raise DataError(
            f"{where}: labels must be numbers of classes", found=found, allowed=f"0 to {num_classes - 1}, for {num_classes} classes"
        )
    return torch.from_numpy(array.astype(np.int64))


def valid_classes(classes: Any, where: str) -> tuple[str, ...]:
    """Class names, as a tuple. Names that differ only in case or Unicode form are refused: file systems and people take them for one."""
    names = () if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray) else tuple(classes)
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: there are labels, so classes must be names, in the order of the labels", found=classes)
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_class(name), name)
        if other != name:
            differ = "the form of Unicode" if _composed(name) == _composed(other) else "upper and lower case"
            raise DataError(
                f"{where} has two names for one class, which differ in {differ} alone: {other!a} and {name!a}",
                fix="merge the two, or rename one if they mean different things",
            )
    if len(seen) < len(names):
        raise DataError(f"{where} names a class twice: {next(name for name in names if names.count(name) > 1)}")
    return tuple(map(str, names))


def same_class(name: str) -> str:
    """What two names of one class have in common: upper and lower case, and the ways to write an accent in Unicode, do not matter."""
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def valid_fingerprint(images: ImageSet, where: str) -> str:
    """The fingerprint of an image set, which must not change between two reads."""
    fingerprint = getattr(images, "fingerprint", None)
    if not isinstance(fingerprint, str) or not fingerprint:
        raise DataError(f"{where}: fingerprint must be text that changes when images or labels do", found=fingerprint)
    if images.fingerprint != fingerprint:
        raise DataError(f"{where}: fingerprint changes though the images do not", found=(fingerprint, images.fingerprint))
    return fingerprint


def valid_pixels(pixels: Any, num_images: int, image: ImageSpec, where: str, *, window: Window | None = None) -> Tensor:
    """Decoded images: (num_images, C, H, W) on the CPU, of the size and colour that ``image`` says, and of a type that may be stored."""
    expected = (num_images, image.num_chs, image.height, image.width)
    dtypes = (torch.uint8,) if window is None else STORED
    if isinstance(pixels, Tensor) and pixels.dtype in dtypes and tuple(pixels.shape) == expected and pixels.device.type == "cpu":
        return pixels
    if isinstance(pixels, Tensor):
        found = f"{pixels.dtype} {tuple(pixels.shape)}" + (f" on {pixels.device}" if pixels.device.type != "cpu" else "")
    else:
        found = f"{type(pixels).__name__} {getattr(pixels, 'shape', '')}".strip()
    fix = "state the window of their values" if isinstance(pixels, Tensor) and pixels.dtype in STORED[1:] and window is None else ""
    raise DataError(
        f"{where} must be a tensor of pixels", found=found, allowed=f"{' or '.join(map(str, dtypes))} {expected} on the CPU", fix=fix
    )


def valid_window(window: Any, where: str) -> Window | None:
    """Two finite numbers, the first below the second, or None."""
    if window is None:
        return None
    try:
        low, high = map(float, window)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: window must be two numbers", found=window, allowed="(low, high)") from error
    if not (-math.inf < low < high < math.inf):
        raise DataError(f"{where}: window must be two numbers, the smaller one first", found=(low, high))
    return low, high


def valid_display(display: Any, image: ImageSpec, where: str) -> tuple[int, ...]:
    """The channels to draw: none, one or three of those that there are."""
    chosen = tuple(display) if isinstance(display, Sequence) else None
    if chosen is None or len(chosen) not in (0, 1, 3) or not all(type(index) is int and 0 <= index < image.num_chs for index in chosen):
        raise DataError(f"{where}: display must be one channel or three", found=display, allowed=f"0 to {image.num_chs - 1}")
    return chosen


def valid_paths(paths: Any, name: str, where: str) -> tuple[str, ...]:
    """A sequence of strings, as a tuple."""
    if isinstance(paths, str) or not isinstance(paths, Sequence) or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{where}: {name} must be a tuple of texts", found=paths)
    return tuple(paths)
