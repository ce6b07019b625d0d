"""A data set opened for a run: every split is loaded once, and small ones are decoded once and stay in memory."""

from collections.abc import Callable

from sslkit.data.duplicates import Duplicates, find_duplicates
from sslkit.data.resident import ResidentSet
from sslkit.interfaces import Dataset, ImageSet, ImageSpec, Split


class OpenedDataset(Dataset):
    """Wraps a data set so that stages share what one of them has loaded.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._splits: dict[Split, ImageSet | None] = {}
        self._duplicates: dict[tuple[ImageSet, ImageSet], Duplicates | None] = {}

    @property
    def source(self) -> Dataset:
        """The data set that was opened."""
        return self._dataset

    def image(self) -> ImageSpec:
        """See :class:`Dataset`."""
        return self._dataset.image()

    def available(self) -> bool:
        """See :class:`Dataset`."""
        return self._dataset.available()

    def load(self, split: Split) -> ImageSet | None:
        """See :class:`Dataset`; the second call costs nothing."""
        if split not in self._splits:
            images = self._dataset.load(split)
            self._splits[split] = images if images is None or images.pixels is not None else ResidentSet(images)
        return self._splits[split]

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
