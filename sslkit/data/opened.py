"""A data set opened for a run: every split is loaded once, and small ones are decoded once and stay in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sslkit.data.duplicates import Duplicates, find_duplicates
from sslkit.data.resident import ResidentSet
from sslkit.errors import RunFailedError
from sslkit.interfaces import Dataset, ImageSet, ImageSpec, Split


class OpenedDataset(Dataset):
    """Wraps a data set so that stages share what one of them has loaded.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._splits: dict[Split, ResidentSet | None] = {}
        self._duplicates: dict[tuple[ImageSet, ImageSet], Duplicates | None] = {}

    def image(self) -> ImageSpec:
        """See :class:`Dataset`."""
        return self._dataset.image()

    def available(self) -> bool:
        """See :class:`Dataset`."""
        return self._dataset.available()

    def load(self, split: Split) -> ResidentSet | None:
        """See :class:`Dataset`; the second call costs nothing."""
        if split not in self._splits:
            images = self._dataset.load(split)
            self._splits[split] = None if images is None else ResidentSet(images)
        return self._splits[split]

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
