"""A subset of a dataset: some of its classes, or a limited number of images."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from sslkit.contract.errors import DataError, OptionError, did_you_mean, some
from sslkit.contract.images import Dataset, ImageSet, ImageSpec, Split
from sslkit.data.cache import same_images
from sslkit.data.file_set import FileSet
from sslkit.data.folder_scan import ImageFiles
from sslkit.data.validation import same_class, valid_classes, valid_labels
from sslkit.data.window import take
from sslkit.training.seeds import derive_seed, make_generator


@final
@dataclass(frozen=True, kw_only=True)
class Subset(Dataset):
    """A subset of another dataset. Images keep their order; so do classes, which are renumbered.

    Attributes:
        source: the whole dataset.
        classes: names, or numbers of the training images' classes, from 0; None: all. Unlabelled images for pretraining are chosen by the
            labels of the training images if they are the same images, and all taken if not.
        max_images: of each split; None: all. Balanced over the classes as far as they have images. A smaller subset is part of a larger
            one.
        seed: of the draw.
    """

    source: Dataset
    classes: tuple[int | str, ...] | None = None
    max_images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_images is not None and self.max_images < 1:
            raise OptionError("max_images", "must be positive", found=self.max_images, allowed="1 or more")
        if self.classes is not None and not self.classes:
            raise OptionError("classes", "is empty", fix="name classes, or leave it out")

    @override
    def image(self) -> ImageSpec:
        return self.source.image()

    @override
    def available(self) -> bool:
        return self.source.available()

    @override
    def why_unlabeled(self, split: Split) -> str:
        return self.source.why_unlabeled(split)

    @override
    def load(self, split: Split) -> ImageSet | None:
        images = self.source.load(split)
        if images is None:
            return None
        labels, names = _labels(images, split)
        kept, notes = torch.arange(len(images)), [*images.notes]
        if self.classes is not None:
            kept, labels, names, note = self._of_classes(images, labels, names, split)
            notes.append(f"classes: {note}")
        if split == "pretrain":
            labels, names = None, ()
        if self.max_images is not None:
            chosen = self._drawn(len(kept), labels, names, split)
            notes.append(
                f"max_images: {len(chosen):,} of {len(kept):,} {split} images" + ("" if len(chosen) < len(kept) else ": there are no more")
            )
            kept, labels = kept[chosen], None if labels is None else labels[chosen]
        return _part(images, kept, labels, names, tuple(notes))

    def _of_classes(
        self, images: ImageSet, labels: Tensor | None, names: tuple[str, ...], split: Split
    ) -> tuple[Tensor, Tensor | None, tuple[str, ...], str]:
        """Where the images of the chosen classes are, their labels and classes, and a note on what is kept."""
        train = images if split == "train" else self.source.load("train")
        train_labels, train_names = (None, ()) if train is None else _labels(train, "train")
        if train is None or train_labels is None:
            raise DataError("classes: the training images have no labels", fix="leave classes out")
        wanted = self._chosen(train_names)
        if labels is None and len(images) == len(train) and same_images(images, train):
            labels, names = train_labels, train_names
        if labels is None:
            return torch.arange(len(images)), None, (), f"the {split} images have no labels, so that all {len(images):,} are kept"
        numbers = [number for number, name in enumerate(names) if same_class(name) in wanted]
        kept = torch.isin(labels, torch.tensor(numbers, dtype=torch.int64)).nonzero().flatten()
        if not len(kept):
            raise DataError(f"classes: no {split} image is of these classes", found=list(self.classes or ()))
        renumbered = torch.searchsorted(torch.tensor(numbers), labels[kept])
        names = tuple(names[number] for number in numbers)
        return kept, renumbered, names, f"{len(kept):,} of {len(images):,} {split} images, those of {some(names)}"

    def _chosen(self, names: tuple[str, ...]) -> set[str]:
        """The classes that are asked for, in the form in which names are compared."""
        known = set(map(same_class, names))
        chosen: set[str] = set()
        for wanted in self.classes or ():
            if isinstance(wanted, int) and not 0 <= wanted < len(names):
                raise OptionError("classes", "no such class", found=wanted, allowed=f"0 to {len(names) - 1}")
            found = names[wanted] if isinstance(wanted, int) else wanted
            if same_class(found) not in known:
                raise OptionError("classes", "no such class", found=wanted, allowed=some(names), fix=did_you_mean(found, names))
            if same_class(found) in chosen:
                raise OptionError("classes", "names a class twice", found=wanted)
            chosen.add(same_class(found))
        return chosen

    def _drawn(self, number: int, labels: Tensor | None, names: tuple[str, ...], split: Split) -> Tensor:
        """Positions of at most ``max_images`` of so many images, in order."""
        assert self.max_images is not None
        room = min(self.max_images, number)
        order = torch.randperm(number, generator=make_generator(derive_seed(self.seed, "max_images", split)))
        if labels is None:
            return order[:room].sort().values
        present = labels.unique()
        if self.max_images < len(present):
            problem = f"are fewer than the classes of the {split} images"
            raise OptionError("max_images", problem, found=self.max_images, allowed=f"{len(present)} or more", fix="or choose classes")
        # The first of every class, then the second of each that has one, and so on.
        turn = torch.empty(number, dtype=torch.int64)
        for label in present:
            mine = order[labels[order] == label]
            turn[mine] = torch.arange(len(mine))
        return order[turn[order].argsort(stable=True)][:room].sort().values


def whole(dataset: Dataset) -> Dataset:
    """The dataset that a subset is taken from; any other dataset is returned as it is."""
    return dataset.source if isinstance(dataset, Subset) else dataset


def _labels(images: ImageSet, split: Split) -> tuple[Tensor | None, tuple[str, ...]]:
    if images.labels is None:
        return None, ()
    names = valid_classes(images.classes, f"{split} images")
    return valid_labels(images.labels, len(images), len(names), f"{split} images"), names


def _part(images: ImageSet, kept: Tensor, labels: Tensor | None, classes: tuple[str, ...], notes: tuple[str, ...]) -> ImageSet:
    """Some images of a split."""
    digest = hashlib.sha256(repr((images.fingerprint, classes)).encode())
    for tensor in (kept, labels):
        digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    part = copy.copy(images) if isinstance(images, FileSet) else _Part(images, kept)
    if isinstance(images, FileSet) and isinstance(part, FileSet):  # which the cache knows how to share and to compare
        part.files = ImageFiles(images.files[index] for index in kept.tolist())
    part.labels, part.classes, part.notes, part.fingerprint = labels, classes, notes, digest.hexdigest()
    return part


class _Part(ImageSet):
    """Some images of a set in memory, or of a third-party class."""

    def __init__(self, source: ImageSet, kept: Tensor) -> None:
        self.image, self.skipped, self.window, self.display = source.image, source.skipped, source.window, source.display
        self.pixels = None if source.pixels is None else take(source.pixels, kept)
        self._source = None if self.pixels is not None else source  # lets go of the other images
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @override
    def read(self, indices: Sequence[int]) -> Tensor:
        if self.pixels is not None:
            return take(self.pixels, torch.as_tensor(indices, dtype=torch.int64))
        assert self._source is not None
        return self._source.read(self._kept[list(indices)].tolist())
