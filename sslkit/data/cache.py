"""A data set opened for a run, the one door that images come in by: every split is loaded once, checked, and small ones are decoded once
and stay in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from sslkit.contract.errors import DataError, RunFailedError
from sslkit.contract.images import Dataset, ImageSet, ImageSpec, LabeledData, Split
from sslkit.data.class_names import same_class
from sslkit.data.duplicates import Duplicates, find_duplicates
from sslkit.data.file_set import FileSet
from sslkit.data.resident import ResidentSet
from sslkit.data.subset import class_counts
from sslkit.data.validation import valid_spec


class OpenedDataset(Dataset):
    """Wraps a data set so that stages share what one of them has loaded, and get nothing that is not what the contract says.

    Args:
        dataset: the data set.

    Raises:
        DataError: it is none.
    """

    def __init__(self, dataset: Dataset) -> None:
        if not isinstance(dataset, Dataset):
            fix = "hand over images in memory as sslkit.Arrays, or write a class of it"
            raise DataError("data must be an sslkit.Dataset", found=type(dataset).__name__, fix=fix)
        self._dataset = dataset
        self._image: ImageSpec | None = None
        self._splits: dict[Split, ResidentSet | None] = {}
        self._labeled: LabeledData | None = None
        self._notes: list[str] = []
        self._told = 0
        self._duplicates: dict[tuple[ImageSet, ImageSet], Duplicates | None] = {}

    @property
    def source(self) -> Dataset:
        """The data set that was opened."""
        return self._dataset

    def image(self) -> ImageSpec:
        """See :class:`Dataset`; the second call costs nothing."""
        if self._image is None:
            self._image = valid_spec(self._dataset.image(), type(self._dataset).__name__)
        return self._image

    def available(self) -> bool:
        """See :class:`Dataset`."""
        return self._dataset.available()

    def why_unlabeled(self, split: Split) -> str:
        """See :class:`Dataset`."""
        return self._dataset.why_unlabeled(split)

    def load(self, split: Split) -> ResidentSet | None:
        """See :class:`Dataset`; the second call costs nothing. The images of ``pretrain`` have no labels, whatever the data set says.

        Raises:
            DataError: what the data set returns is not what the contract says.
        """
        if split not in self._splits:
            self._splits[split] = self._open(split)
        return self._splits[split]

    def labeled(self) -> LabeledData:
        """The labelled splits; their labels count the classes in one order, that of the training images.

        Raises:
            DataError: a split or its labels are missing, a class has no training images, or test images are of an unknown class.
        """
        if self._labeled is None:
            train, test = self.load("train"), self.load("test")
            if train is None or train.labels is None:
                problem = self.why_unlabeled("train") or "the training images have no labels"
                raise DataError(problem, fix="an evaluation needs class folders or labels")
            if test is None or test.labels is None:
                fix = "give a test split, or set val_fraction where the data has that option"
                raise DataError(self.why_unlabeled("test") or "there are no labelled test images", fix=fix)
            if empty := _named(train, lambda count: count == 0):
                raise DataError(f"no training images of {_some(empty)}", fix="every class needs some: add images, or leave the class out")
            self._adopt_classes(train, test)
            self._labeled = LabeledData(train, test)
        return self._labeled

    def check_fingerprints(self) -> None:
        """Load the splits once more, to tell whether the data set knows them again.

        Raises:
            DataError: a fingerprint is another one, so that no finished or interrupted stage would ever be known again.
        """
        for split, images in self._splits.items():
            again = None if images is None else self._open(split)
            if images is not None and again is not None and images.fingerprint != again.fingerprint:
                raise DataError(
                    f"{self._where(split)}: fingerprint changes with every load",
                    found=(images.fingerprint, again.fingerprint),
                    fix="make it of the images and labels alone: no random number, time or id",
                )

    def untold(self) -> list[str]:
        """What a user should know of the splits that were loaded, a sentence each, and has not been told before."""
        told, self._told = self._told, len(self._notes)
        return self._notes[told:]

    def describe(self) -> dict[str, str]:
        """What the splits that were loaded hold, in words."""
        return {split: _describe(images) for split, images in self._splits.items() if images is not None}

    @contextmanager
    def lent_to(self, borrower: object) -> Iterator[None]:
        """Around a call that is handed splits: afterwards they must be as they were. Those that are not are not used again.

        Args:
            borrower: whose class is named.

        Raises:
            RunFailedError: labels, pixels or what describes them have changed.
        """
        yield
        changed = [f"{name} of the {split} images" for split, images in self._splits.items() if images for name in images.changes()]
        if changed:
            self._splits.clear()
            self._duplicates.clear()
            self._labeled = None
            raise RunFailedError(
                f"{type(borrower).__name__} has changed the {' and the '.join(changed)}, so its figures are void",
                fix="report the evaluator: it must copy what it writes into",
            )

    def duplicates(self, train: ImageSet, test: ImageSet, tell: Callable[[Duplicates], None]) -> Duplicates | None:
        """See :func:`~sslkit.data.duplicates.find_duplicates`; the second call costs nothing, and tells nothing.

        Args:
            train: a split that was loaded here.
            test: another one, or the same, which is not compared.
            tell: called with what is found, unless it was before, or there is nothing.
        """
        if (train, test) not in self._duplicates:
            found = self._duplicates[train, test] = None if train is test else find_duplicates(train, test)
            if found is not None and found.num_test_images:
                tell(found)
        return self._duplicates[train, test]

    def _where(self, split: Split) -> str:
        return f"{type(self._dataset).__name__}, {split} images"

    def _open(self, split: Split) -> ResidentSet | None:
        images = self._dataset.load(split)
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
        """Count the classes of the test images as the training images do: they are the same by their names."""
        assert test.labels is not None
        known = {same_class(name): label for label, name in enumerate(train.classes)}
        if unknown := [name for name in _named(test, lambda count: count > 0) if same_class(name) not in known]:
            raise DataError(
                f"test images are of classes that no training image has: {_some(unknown)}",
                allowed=_some(train.classes),
                fix="give both splits the same classes",
            )
        number = torch.tensor([known.get(same_class(name), -1) for name in test.classes])  # -1: a name without images
        test.relabel(number[test.labels], train.classes)
        if missing := _named(test, lambda count: count == 0):
            self._note(
                [f"{len(missing)} of {len(train.classes)} classes have no test images, so that nothing measures them: {_some(missing)}"]
            )

    def _note(self, notes: Iterable[str]) -> None:
        self._notes += [note for note in notes if note not in self._notes]


def _named(images: ResidentSet, chosen: Callable[[int], bool]) -> list[str]:
    """The names of the classes whose number of images is so."""
    return [name for name, count in zip(images.classes, class_counts(images), strict=True) if chosen(count)]


def _describe(images: ResidentSet) -> str:
    counts = [count for count in class_counts(images) if count]
    each = f"{min(counts, default=0):,}" + (f" to {max(counts):,}" if counts and min(counts) < max(counts) else "")
    of = f" of {len(counts)} classes, {each} each" if counts else ""
    place = f", in {images.source.folder}" if isinstance(images.source, FileSet) else ""
    return f"{len(images):,} images{of}{place}"


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")
