"""A dataset opened for a run, through which all images come: splits are loaded and checked once; small ones stay decoded in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from sslkit.contract.checks import refuse_misspelt_attributes
from sslkit.contract.errors import DataError, RunFailedError, some
from sslkit.contract.images import Dataset, ImageSet, ImageSpec, LabeledData, Split, Window
from sslkit.data.arrays import checksum
from sslkit.data.duplicates import Duplicates, find_duplicates
from sslkit.data.file_set import FileSet
from sslkit.data.image_file import naming_files
from sslkit.data.parallel import map_chunks
from sslkit.data.validation import (
    same_class,
    valid_classes,
    valid_display,
    valid_fingerprint,
    valid_labels,
    valid_paths,
    valid_pixels,
    valid_spec,
    valid_window,
)
from sslkit.data.window import in_window, joined, take

MAX_RESIDENT_BYTES = 2 * 1024**3
"""Image sets up to this size are kept in memory: CIFAR-10 takes 0.15 GiB. Larger ones are decoded as they are needed."""

_CHUNK = 256


class ResidentSet(ImageSet):
    """Images checked to be what :class:`ImageSet` promises, and decoded all at once when their pixels are first asked for, if they are
    small. They can tell whether somebody to whom they were lent has changed anything.

    ``read`` returns uint8, or float32 scaled to the window. ``stored`` has the pixels before that, which a loader sends to the device.
    """

    def __init__(self, source: ImageSet, where: str, *, labeled: bool = True) -> None:
        self.source = source
        self._where = where
        self._twin: ResidentSet | None = None
        refuse_misspelt_attributes(source, ImageSet)
        try:
            self._num_images = len(source)
        except (TypeError, ValueError, OverflowError) as error:  # Python's own rules
            raise DataError(f"{where}: len() must be the number of images ({error})") from error
        if self._num_images < 1:
            raise DataError(f"{where}: there are no images")
        self.image = valid_spec(getattr(source, "image", None), where)
        if labeled and source.labels is not None:
            self.classes = valid_classes(source.classes, where)
            self.labels = valid_labels(source.labels, self._num_images, len(self.classes), where)
        self.fingerprint = valid_fingerprint(source, where)
        self.skipped = valid_paths(source.skipped, "skipped", where)
        self.notes = valid_paths(source.notes, "notes", where)
        self.display = valid_display(source.display, self.image, where)
        self.stored = StoredSet(self, valid_window(source.window, where))
        self._lent = self._facts()

    def __len__(self) -> int:
        return self._num_images

    @override
    def read(self, indices: Sequence[int]) -> Tensor:
        """Never decodes what is in memory, nor everything for the sake of a few."""
        return in_window(self.read_stored(indices), self.stored.window)

    def try_first(self) -> None:
        """Decode the first of the files, if there are files, to refuse now what reading them would refuse: most folders are of one kind."""
        if isinstance(self.source, FileSet):
            with naming_files():
                self.source.decode(self.source.files[0])

    @cached_property
    def pixels(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """None where they are too large to keep, and where they have a window."""
        return self.stored.pixels if self.stored.window is None else None

    def read_stored(self, indices: Sequence[int]) -> Tensor:
        """As ``read``, before pixels are scaled to the window."""
        decoded: Tensor | None = self.__dict__.get("stored_pixels")
        if decoded is not None:
            return take(decoded, torch.tensor(list(indices), dtype=torch.int64))
        where = f"{self._where}: what {type(self.source).__name__}.read returns"
        return valid_pixels(self.source.read(indices), len(indices), self.image, where, window=self.stored.window)

    @cached_property
    def stored_pixels(self) -> Tensor | None:
        """All images as they are stored; None where they are too large to keep."""
        window = self.stored.window
        if self._twin is not None:
            pixels = self._twin.stored_pixels
        elif (pixels := self.source.pixels) is not None:
            pixels = valid_pixels(pixels, len(self), self.image, f"{self._where}: pixels", window=window)
        elif len(self) * max_bytes(self.stored) <= MAX_RESIDENT_BYTES:
            chunks = torch.arange(len(self)).split(_CHUNK)
            pixels = joined(map_chunks(lambda chunk: self.read_stored(chunk.tolist()), chunks, f"decoding {len(self):,} images"))
        self._lent["pixels"] = checksum(pixels)
        return pixels

    def share(self, other: "ResidentSet") -> None:
        """Let the images be decoded and kept once if they are those of another split, whatever the labels."""
        if same_images(self.source, other.source):
            self._twin, self.source = other, other.source

    def relabel(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        """Count the classes in another order: (N,) int64 labels, and their names."""
        self.labels, self.classes = labels, classes
        self._lent |= {"labels": checksum(labels), "classes": classes}

    def changes(self) -> Iterator[str]:
        """Name what is no longer as it was: ``labels``, ``classes``, ``pixels`` ..."""
        return (name for name, fact in self._facts().items() if fact != self._lent[name])

    def _facts(self) -> dict[str, object]:
        facts = {name: getattr(self, name) for name in ("image", "classes", "fingerprint", "skipped", "notes")}
        held = self.__dict__  # they may not be decoded yet
        pixels = held["pixels"] if held.get("pixels") is not None else held.get("stored_pixels")
        return {"labels": checksum(self.labels), **facts, "pixels": checksum(pixels)}


class StoredSet(ImageSet):
    """The images of a :class:`ResidentSet` as they are stored, for a loader, which scales them to their window on the device."""

    def __init__(self, opened: ResidentSet, window: Window | None) -> None:
        self.image, self.fingerprint, self.window = opened.image, opened.fingerprint, window
        self._opened = opened

    def __len__(self) -> int:
        return len(self._opened)

    @override
    def read(self, indices: Sequence[int]) -> Tensor:
        return self._opened.read_stored(indices)

    @property
    def pixels(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] - read only, and computed late
        """None where they are too large to keep."""
        return self._opened.stored_pixels


def as_stored(images: ImageSet) -> ImageSet:
    """What a loader reads: for images that were opened here, the pixels before they are scaled to their window."""
    return images.stored if isinstance(images, ResidentSet) else images


def max_bytes(images: ImageSet) -> int:
    """The size of one image as it is stored, at most."""
    return images.image.num_chs * images.image.height * images.image.width * (1 if images.window is None else 4)


def same_images(mine: ImageSet, its: ImageSet) -> bool:
    """Whether two sets hold the same images in the same order, whatever their labels, as far as can be told without decoding them."""
    if isinstance(mine, FileSet) and isinstance(its, FileSet):
        read_alike = (mine.folder, mine.image, mine.canvas, mine.decoder) == (its.folder, its.image, its.canvas, its.decoder)
        return read_alike and mine.files == its.files
    if isinstance(mine.pixels, Tensor) and isinstance(its.pixels, Tensor):
        same_kind = (mine.pixels.shape, mine.pixels.dtype, mine.window) == (its.pixels.shape, its.pixels.dtype, its.window)
        return same_kind and torch.equal(mine.pixels, its.pixels)
    return (len(mine), mine.image, mine.fingerprint) == (len(its), its.image, its.fingerprint)


class OpenedDataset(Dataset):
    """Wraps a dataset so that stages share what one of them has loaded, and get nothing that is not what the contract says."""

    def __init__(self, dataset: Dataset) -> None:
        if not isinstance(dataset, Dataset):
            fix = "pass images in memory as sslkit.Arrays, or write a class of it"
            raise DataError("data must be an sslkit.Dataset", found=type(dataset).__name__, fix=fix)
        self.source = dataset
        self._image: ImageSpec | None = None
        self._splits: dict[Split, ResidentSet | None] = {}
        self._labeled: LabeledData | None = None
        self._notes: list[str] = []
        self._num_reported = 0
        self._duplicates: dict[tuple[ImageSet, ImageSet], Duplicates | None] = {}

    @classmethod
    def of(cls, dataset: Dataset) -> "OpenedDataset":
        """A dataset that is opened already, or one that is not."""
        return dataset if isinstance(dataset, OpenedDataset) else cls(dataset)

    @override
    def image(self) -> ImageSpec:
        if self._image is None:
            self._image = valid_spec(self.source.image(), type(self.source).__name__)
        return self._image

    @override
    def available(self) -> bool:
        return self.source.available()

    @override
    def why_unlabeled(self, split: Split) -> str:
        return self.source.why_unlabeled(split)

    @override
    def load(self, split: Split) -> ResidentSet | None:
        """The second call costs nothing. The images of ``pretrain`` have no labels, whatever the dataset says."""
        if split not in self._splits:
            opened = self._splits[split] = self._open(split)
            for other in self._splits.values():
                if opened is not None and other is not None and other is not opened:
                    opened.share(other)
        return self._splits[split]

    def labeled(self) -> LabeledData:
        """The labelled splits, whose labels count the classes in one order, that of the training images."""
        if self._labeled is None:
            train, test = self.load("train"), self.load("test")
            if train is None or train.labels is None:
                problem = self.why_unlabeled("train") or "the training images have no labels"
                raise DataError(problem, fix="an evaluation needs class folders or labels")
            if test is None or test.labels is None:
                fix = "give a test split, or set val_fraction where the data has that option"
                raise DataError(self.why_unlabeled("test") or "there are no labelled test images", fix=fix)
            if empty := _empty_classes(train):
                raise DataError(f"no training images of {some(empty)}", fix="every class needs some: add images, or leave the class out")
            self._adopt_classes(train, test)
            self._labeled = LabeledData(train, test)
        return self._labeled

    def check_fingerprints(self) -> None:
        """Load the splits once more, and refuse a fingerprint that has changed: no finished or interrupted stage would be recognised."""
        for split, images in self._splits.items():
            again = None if images is None else self._open(split)
            if images is not None and again is not None and images.fingerprint != again.fingerprint:
                raise DataError(
                    f"{self._where(split)}: fingerprint changes with every load",
                    found=(images.fingerprint, again.fingerprint),
                    fix="derive it from images and labels alone, without random numbers, time or id()",
                )

    def new_notes(self) -> list[str]:
        """What a user should know of the splits that were loaded, a sentence each; each is returned once."""
        first, self._num_reported = self._num_reported, len(self._notes)
        return self._notes[first:]

    def describe(self) -> dict[str, str]:
        """What the splits that were loaded hold, in words."""
        return {split: _describe(images) for split, images in self._splits.items() if images is not None}

    @contextmanager
    def lent_to(self, borrower: object) -> Iterator[None]:
        """Around a call that is handed splits: a ``RunFailedError`` if it has changed them; changed splits are not used again."""
        yield
        changed = [f"{name} of the {split} images" for split, images in self._splits.items() if images for name in images.changes()]
        if changed:
            self._splits.clear()
            self._duplicates.clear()
            self._labeled = None
            raise RunFailedError(
                f"{type(borrower).__name__} has changed the {' and the '.join(changed)}, so its results are invalid",
                fix="report the evaluator: it must copy what it writes into",
            )

    def duplicates(self, train: ImageSet, test: ImageSet, tell: Callable[[Duplicates], None]) -> Duplicates | None:
        """As :func:`~sslkit.data.duplicates.find_duplicates`, for splits that were loaded here, two of them or twice the same one.

        ``tell`` is called with what is found, if anything, and only the first time; the second call costs nothing.
        """
        if (train, test) not in self._duplicates:
            found = self._duplicates[train, test] = None if train is test else find_duplicates(train, test)
            if found is not None and found.num_test_images:
                tell(found)
        return self._duplicates[train, test]

    def _where(self, split: Split) -> str:
        return f"{type(self.source).__name__}, {split} images"

    def _open(self, split: Split) -> ResidentSet | None:
        images = self.source.load(split)
        if images is None:
            return None
        where = self._where(split)
        if not isinstance(images, ImageSet):
            raise DataError(f"{where}: load must return an ImageSet or None", found=type(images).__name__)
        opened = ResidentSet(images, where, labeled=split != "pretrain")
        if opened.image[:3] != self.image()[:3]:
            raise DataError(f"{where}: other size or colour than image() says", found=opened.image[:3], allowed=str(self.image()[:3]))
        self._note(opened.notes)
        return opened

    def _adopt_classes(self, train: ResidentSet, test: ResidentSet) -> None:
        """Count the classes of the test images as the training images do, by their names."""
        assert test.labels is not None
        known = {same_class(name): label for label, name in enumerate(train.classes)}
        counted = zip(test.classes, class_counts(test), strict=True)
        if unknown := [name for name, count in counted if count and same_class(name) not in known]:
            raise DataError(
                f"test images belong to classes without training images: {some(unknown)}",
                allowed=some(train.classes),
                fix="give both splits the same classes",
            )
        number = torch.tensor([known.get(same_class(name), -1) for name in test.classes])  # -1: a name without images
        test.relabel(number[test.labels], train.classes)
        if empty := _empty_classes(test):
            self._note([f"{len(empty)} of {len(train.classes)} classes have no test images, so that nothing measures them: {some(empty)}"])

    def _note(self, notes: Iterable[str]) -> None:
        self._notes += [note for note in notes if note not in self._notes]


def class_counts(images: ImageSet) -> list[int]:
    """How many images each class has; empty without labels."""
    return [] if images.labels is None else images.labels.bincount(minlength=len(images.classes)).tolist()


def _empty_classes(images: ResidentSet) -> list[str]:
    return [name for name, count in zip(images.classes, class_counts(images), strict=True) if not count]


def _describe(images: ResidentSet) -> str:
    counts = [count for count in class_counts(images) if count]
    each = f"{min(counts, default=0):,}" + (f" to {max(counts):,}" if counts and min(counts) < max(counts) else "")
    of = f" of {len(counts)} classes, {each} each" if counts else ""
    folder = f", in {images.source.folder}" if isinstance(images.source, FileSet) else ""
    return f"{len(images):,} images{of}{folder}"
