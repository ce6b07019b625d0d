"""Statistics of a dataset: its images by class and size, mean and standard deviation of their values, broken files and exact duplicates.

Every image is read once. Numbers are computed in float64 and do not depend on the number of threads.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.contract.errors import DataError
from sslkit.contract.images import Dataset, ImageSpec, Split, Window
from sslkit.data.cache import OpenedDataset, ResidentSet, class_counts, same_images
from sslkit.data.duplicates import pixel_hashes
from sslkit.data.file_set import FileSet
from sslkit.data.image_file import read_header
from sslkit.data.image_folder import ImageFolder
from sslkit.data.moments import Moments
from sslkit.data.parallel import map_chunks
from sslkit.data.subset import Subset, whole

SPLITS: tuple[Split, ...] = ("pretrain", "train", "test")

_CHUNK_VALUES = 4_000_000
_EXAMPLES = 3


class Repeated(NamedTuple):
    """Images that have the same pixels as others, once they are decoded."""

    num_images: int
    examples: tuple[tuple[str, str], ...]  # each with the one that it repeats


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """One split.

    Attributes:
        num_images: including broken ones.
        classes: how many images each class has; empty without labels.
        sizes: the number of images of each height and width before they are fitted to the canvas, the most frequent first.
        dtypes: the number of images of each pixel type.
        mean: per channel, of values scaled to the window.
        std: per channel, of values scaled to the window.
        low: per channel, the smallest stored value.
        high: per channel, the largest stored value.
        broken: files that cannot be decoded, with the reason.
        repeated: images that equal an earlier one of the split.
    """

    num_images: int
    classes: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]
    dtypes: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    broken: Mapping[str, str]
    repeated: Repeated


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """All splits of a dataset.

    Attributes:
        image: size and colour of the canvas, with mean and std as measured on the training images.
        window: the values that become 0 and 1; None: 0 and 255 of uint8.
        suggested: whether the window was not stated, but is the range of the training images' values.
        gray: whether the images are in files, each of one channel.
        splits: by name; where two splits are the same images, only their labels differ.
        shared: the test images that are also in ``pretrain`` or ``train``, by that name.
    """

    image: ImageSpec
    window: Window | None
    suggested: bool
    gray: bool
    splits: Mapping[Split, SplitStatistics]
    shared: Mapping[Split, Repeated]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        splits = {
            name: {**asdict(split), "sizes": [[*size, count] for size, count in split.sizes.items()]} for name, split in self.splits.items()
        }
        return {
            "height": self.image.height,
            "width": self.image.width,
            "color": self.image.color,
            "mean": [*self.image.mean],
            "std": [*self.image.std],
            "window": None if self.window is None else [*self.window],
            "window_suggested": self.suggested,
            "splits": {name: {**split, "repeated": split["repeated"]._asdict()} for name, split in splits.items()},
            "test_images_in": {name: repeated._asdict() for name, repeated in self.shared.items()},
        }


def measure_data(data: Dataset) -> DataStatistics:
    """Read every image of every split, once, and measure it as it is fed to a network.

    The files of an :class:`ImageFolder` may be of any type and number of bands, and broken ones are listed.

    Raises:
        DataError: there are no images, or images that are not in files cannot be read.
    """
    opened = OpenedDataset(_measurable(data))
    loaded: dict[Split, ResidentSet] = {name: images for name in SPLITS if (images := opened.load(name)) is not None}
    folder = whole(data)
    stated = folder.window if isinstance(folder, ImageFolder) else next((images.stored.window for images in loaded.values()), None)
    passes: dict[Split, _Pass] = {}
    for name, images in loaded.items():
        known = next((passes[other] for other in passes if same_images(images.source, loaded[other].source)), None)
        passes[name] = known or _measure(images, stated, name)
    if not passes:
        raise DataError("there are no images to measure")
    training = [passes[name] for name in passes if name != "test"] or [*passes.values()]
    if not any(one.moments.count for one in training):
        broken = next(iter(training[0].broken.items()))
        raise DataError(f"none of the images can be decoded; the first: {broken[0]}: {broken[1]}")
    window, suggested = _window(training, stated)
    splits: dict[Split, SplitStatistics] = {
        name: _split(loaded[name], one, None if stated else window or (0.0, 255.0)) for name, one in passes.items()
    }
    first = next(split for split in splits.values() if split.mean)
    image = opened.image()._replace(mean=first.mean, std=first.std)
    distinct: dict[Split, _Pass] = {name: one for name, one in passes.items() if name != "test"}
    if "train" in distinct and distinct["train"] is distinct.get("pretrain"):
        del distinct["train"]
    shared: dict[Split, Repeated] = {
        name: passes["test"].repeats(one) for name, one in distinct.items() if "test" in passes and passes["test"] is not one
    }
    gray = {num_chs for one in passes.values() for num_chs in one.channels} == {1}
    return DataStatistics(image=image, window=window, suggested=suggested, gray=gray, splits=splits, shared=shared)


def _measurable(data: Dataset) -> Dataset:
    """The same images, read without the options that are to be found out."""
    if isinstance(data, Subset):
        return replace(data, source=_measurable(data.source))
    return data.measurable() if isinstance(data, ImageFolder) else data


@dataclass
class _Pass:
    """What one pass over images finds; those of several threads are merged in order."""

    moments: Moments
    low: Tensor  # (C,) float64
    high: Tensor
    dtypes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)  # of files
    hashes: list[tuple[str, bytes]] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, num_chs: int) -> "_Pass":
        infinite = torch.full((num_chs,), torch.inf, dtype=torch.float64)
        return cls(Moments(num_chs), infinite, -infinite)

    def add(self, pixels: Tensor, window: Window | None, names: Sequence[str]) -> None:
        """Count (N, C, H, W) images as they are stored."""
        values = pixels.double()
        self.low, self.high = torch.minimum(self.low, values.amin(dim=(0, 2, 3))), torch.maximum(self.high, values.amax(dim=(0, 2, 3)))
        self.moments.add(pixels, window)
        self.hashes += zip(names, pixel_hashes(pixels), strict=True)

    def merge(self, other: "_Pass") -> None:
        """Count what another has counted."""
        self.moments.merge(other.moments)
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.dtypes += other.dtypes
        self.sizes += other.sizes
        self.channels += other.channels
        self.hashes += other.hashes
        self.broken |= other.broken

    def repeats(self, other: "_Pass | None" = None) -> Repeated:
        """The images that are among those of another pass, or, of the same one, earlier in it."""
        first: dict[bytes, str] = {}
        for name, digest in other.hashes if other else ():
            first.setdefault(digest, name)
        found: list[tuple[str, str]] = []
        for name, digest in self.hashes:
            if digest in first:
                found.append((name, first[digest]))
            elif other is None:
                first[digest] = name
        return Repeated(len(found), tuple(found[:_EXAMPLES]))


def _measure(images: ResidentSet, window: Window | None, name: Split) -> _Pass:
    source, spec = images.source, images.image

    def measured(chunk: Sequence[int]) -> _Pass:
        found = _Pass.empty(spec.num_chs)
        if isinstance(source, FileSet):
            for index in chunk:
                _add_file(found, source, index, window)
        else:
            pixels = images.read_stored(chunk)
            found.add(pixels, window, [f"image {index:,}" for index in chunk])
            found.dtypes[_name(pixels)] += len(chunk)
            found.sizes[spec.height, spec.width] += len(chunk)
        return found

    size = max(1, min(64, _CHUNK_VALUES // (spec.num_chs * spec.height * spec.width)))
    chunks = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    total = _Pass.empty(spec.num_chs)
    for found in map_chunks(measured, chunks, f"measuring {name} images"):
        total.merge(found)
    return total


def _add_file(found: _Pass, images: FileSet, index: int, window: Window | None) -> None:
    file = images.files[index]
    try:
        header = read_header(images.folder / file.path, decoder=images.decoder, max_pixels=images.max_pixels)
        pixels = images.decode(file)
    except DataError as error:
        found.broken[file.path] = str(error)
        return
    found.add(pixels[None], window, [file.path])
    found.dtypes[_name(pixels)] += 1
    found.sizes[header.height, header.width] += 1
    found.channels[header.num_chs] += 1


def _name(pixels: Tensor) -> str:
    return str(pixels.dtype).removeprefix("torch.")


def _window(training: Sequence[_Pass], stated: Window | None) -> tuple[Window | None, bool]:
    """The window that was stated, or the one that the values need, and whether it is that."""
    if stated is not None or not {dtype for one in training for dtype in one.dtypes} - {"uint8"}:
        return stated, False
    low = min(float(one.low.min()) for one in training)
    high = max(float(one.high.max()) for one in training)
    return (low, high if high > low else low + 1), True


def _split(images: ResidentSet, found: _Pass, unit: Window | None) -> SplitStatistics:
    """``unit``: the window of moments that were taken of values as they are stored; None: they are those of the window."""
    low, high = unit or (0.0, 1.0)
    any_read = found.moments.count > 0
    classes = dict(zip(images.classes, class_counts(images), strict=True)) if images.labels is not None else {}

    def listed(values: Tensor) -> tuple[float, ...]:
        return tuple(values.tolist()) if any_read else ()

    return SplitStatistics(
        num_images=len(images),
        classes=classes,
        sizes=dict(found.sizes.most_common()),
        dtypes=dict(found.dtypes.most_common()),
        mean=listed((found.moments.mean - low) / (high - low)),
        std=listed(found.moments.std / (high - low)),
        low=listed(found.low),
        high=listed(found.high),
        broken=found.broken,
        repeated=found.repeats(),
    )


def paste(table: Mapping[str, Any], data: Dataset, found: DataStatistics) -> tuple[dict[str, Any], list[str]]:
    """The ``[data]`` table with what was measured, and what to know about it, a sentence each.

    Args:
        table: as the user wrote it.
        data: what was built of it.
        found: what was measured.
    """
    notes = list(_notes(found))
    source = whole(data)
    if not {"mean", "std"} <= vars(source).keys():
        return dict(table), [*notes, f"{type(source).__name__} has no options mean and std: its own statistics stay"]
    image = found.image
    if found.gray and image.color == "rgb" and "color" not in table:
        image = image._replace(color="gray", mean=image.mean[:1], std=image.std[:1])  # its three channels are one
        notes.append(
            'all images have one channel, hence color = "gray"; for a network of three channels state color = "rgb" and measure again'
        )
    pasted = {**table, "mean": [_short(value) for value in image.mean], "std": [_short(value) or 1.0 for value in image.std]}
    if image.color != found.image.color:
        pasted["color"] = image.color
    if found.suggested and found.window is not None:
        pasted["window"] = [_short(value) for value in found.window]
    return pasted, notes


def _short(value: float) -> float:
    """Six digits are enough."""
    return float(f"{value:.6g}")


def _notes(found: DataStatistics) -> Iterator[str]:
    if found.suggested:
        low, high = found.window or (0, 255)
        yield (
            f"the window is all values of the images to train on, {low:g} to {high:g}; where a few of them are far from the others, state a"
            " narrower one and measure again"
        )
    if constant := [index for index, value in enumerate(found.image.std) if not value]:
        yield f"channels without any contrast, whose std is set to 1: {', '.join(map(str, constant))}"
    if len({dtype for split in found.splits.values() for dtype in split.dtypes}) > 1:
        yield "images have pixels of different types, and one window holds for all of them"
