"""Features of a frozen backbone: which are worth keeping for one fit or several, and a bank that keeps them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import final

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.images import Augment, Batch, ImageSet, LabeledData
from sslkit.data.augment import Draws, apply_draws, draw
from sslkit.data.loader import Loader
from sslkit.evaluators.heads import Head
from sslkit.evaluators.views import ClassifierOptions
from sslkit.training.features import BatchSource, evaluating
from sslkit.views.view import View

BUDGET = 4 * 2**30
"""Bytes that kept features may take. Fixed rather than what happens to be free: a resumed run must compute what an uninterrupted one does."""


@final
class FeatureBank(BatchSource):
    """Features in rows, and a source of batches of them: a batch has no pixels, and its indices are rows of the bank.

    ``members``, (M,) int64 on the CPU, are the images it holds, with one row for each way to crop and flip an image. Batches are drawn as
    :class:`~sslkit.data.loader.Loader` draws them, from the same generator, so that a fit sees the same copies of the same images with a
    bank and without.

    All rows are computed when one is first needed, by ``features`` from (N, C, H, W) uint8 images on the context's device, in batches of at
    most ``batch_size`` that depend on the options alone: a resumed fit finds the same bits.
    """

    def __init__(
        self,
        features: Callable[[Tensor], dict[str, Tensor]],
        images: ImageSet,
        members: Tensor,
        options: Augment,
        *,
        batch_size: int,
        context: RunContext,
    ) -> None:
        self.batch_size = batch_size
        self.device = context.device
        self._compute = features
        self._images = images
        self._members = members
        self._options = options
        self._context = context

    @property
    def num_images(self) -> int:
        """Images of the whole dataset, as of the loader that the bank replaces."""
        return len(self._images)

    @property
    def fingerprint(self) -> str:
        """Of the whole dataset, as of the loader that the bank replaces."""
        return self._images.fingerprint

    @property
    def num_rows(self) -> int:
        """How many features it holds, or will."""
        return len(self._members) * num_copies(self._options)

    @override
    def batches(
        self, order: Tensor, *, start: int = 0, sizes: Sequence[int] | None = None, generator: Generator | None = None
    ) -> Iterator[Batch]:
        options = self._options
        first_rows = self._first_rows[order.to(self.device)]  # sent once because sending each batch's indices would make a GPU wait
        chunks = first_rows.split(self.batch_size if sizes is None else list(sizes))
        blank = torch.empty(max(map(len, chunks)), 0, *self._images.image[:2], dtype=torch.uint8, device=self.device)
        for chunk in chunks[start:]:
            copies = plain_copy(options) if generator is None else copy_numbers(draw(len(chunk), options, generator), options)
            yield Batch(blank[: len(chunk)], chunk + copies)

    def in_order(self) -> Iterator[Batch]:
        """Every image of the bank once, in index order, not augmented."""
        return self.batches(self._members)

    def features(self, rows: Tensor) -> dict[str, Tensor]:
        """Look up (N,) int64 rows: ``{layer: (N, ...)}``. The first call computes all features, and may be interrupted."""
        return {layer: kept.take(rows) for layer, kept in self._kept.items()}

    def images_of(self, rows: Tensor) -> Tensor:
        """The index in the dataset of each row's image: (N,) int64."""
        return self._device_members[rows // num_copies(self._options)]

    @cached_property
    def _device_members(self) -> Tensor:
        return self._members.to(self.device)

    @cached_property
    def _first_rows(self) -> Tensor:
        """(num_images,) int64: where the rows of each image begin."""
        first = torch.full((self.num_images,), -self.num_rows - 1, device=self.device)  # of other images: out of range
        first[self._device_members] = torch.arange(len(self._members), device=self.device) * num_copies(self._options)
        return first

    @cached_property
    def _kept(self) -> dict[str, "_LayerRows"]:
        kept: dict[str, _LayerRows] = {}
        start = 0
        for images in self._copies():
            if start and self._context.should_stop():
                raise RunInterruptedError(f"stopped in stage {self._context.stage!r} while computing features")
            for layer, features in self._compute(images).items():
                if layer not in kept:
                    kept[layer] = _LayerRows(self.num_rows, features)
                kept[layer].put(start, features)
            start += len(images)
        return kept

    def _copies(self) -> Iterator[Tensor]:
        """All copies of all images in the order of the rows, at most ``batch_size`` at a time."""
        copies = num_copies(self._options)
        draws = all_draws(self._options, self.device)
        loader = Loader(self._images, batch_size=max(1, self.batch_size // copies), device=self.device)
        for batch in loader.batches(self._members):
            rows = torch.arange(len(batch.images) * copies, device=self.device)
            for part in rows.tensor_split(-(-len(rows) // self.batch_size)):
                drawn = Draws(*(None if values is None else values[..., part % copies] for values in draws))
                yield apply_draws(batch.images[part // copies], self._options, drawn)


class _LayerRows:
    """The rows of one layer, each contiguous, in the memory order of ``like``, (N, ...) features such as will be kept."""

    def __init__(self, num_rows: int, like: Tensor) -> None:
        order = sorted(range(1, like.ndim), key=like.stride, reverse=True)
        self._order = (0, *order)
        self._back = (0, *(1 + order.index(dim) for dim in range(1, like.ndim)))
        self._rows = torch.empty((num_rows, *(like.shape[dim] for dim in order)), dtype=like.dtype, device=like.device)

    def put(self, start: int, features: Tensor) -> None:
        """Keep (N, ...) features in the rows from ``start``."""
        self._rows[start : start + len(features)] = features.permute(self._order)

    def take(self, rows: Tensor) -> Tensor:
        """Look up (N,) rows: (N, ...)."""
        return self._rows.index_select(0, rows).permute(self._back)


@final
class FrozenTrunk:
    """A frozen backbone that fits share. Its features are kept where this saves forward passes and where they fit into ``BUDGET``.

    ``heads`` are those of one fit; those of the others take the same features. Each fit has a subset of the training images, (M,) int64,
    or None for all of them. ``test`` holds features of the test images if several fits need them; else each fit computes its own.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        data: LabeledData,
        training: ClassifierOptions,
        context: RunContext,
        *,
        subsets: Sequence[Tensor | None],
        images_per_epoch: int | None,
    ) -> None:
        self._backbone = backbone
        self._heads = heads
        self._data = data
        self._training = training
        self._context = context
        self._num_drawn = training.epochs * (images_per_epoch or len(data.train))
        self._bytes_left = BUDGET
        self._measured: dict[View | None, int] = {}
        images, augment, self._view = data.train, training.augment, training.view(train=True)
        view = training.view(train=False)
        self.test = self._bank(data.test, None, Augment(), view, instead_of=len(data.test) * len(subsets))
        if self.test is not None:
            self._bytes_left -= self.test.num_rows * self._row_bytes(view)
        # One bank for all fits where that is less work than one for each because their subsets overlap.
        chosen = [torch.arange(len(images)) if subset is None else subset for subset in subsets]
        alone = sum(min(len(members) * num_copies(augment), self._num_drawn) for members in chosen)
        self._shared = self._bank(images, torch.cat(chosen).unique(), augment, self._view, instead_of=alone)

    def train(self, subset: Tensor | None) -> FeatureBank | None:
        """Features of the training images of the fit with this subset, if they are worth keeping."""
        return self._shared or self._bank(self._data.train, subset, self._training.augment, self._view, instead_of=self._num_drawn)

    def _bank(
        self, images: ImageSet, members: Tensor | None, options: Augment, view: View | None, *, instead_of: int
    ) -> FeatureBank | None:
        """A bank, if it takes fewer images through the network than the fits would without it, and fits into the memory that is left. A
        random view, which makes new images each time, has none.
        """
        if view is not None and view.random:
            return None
        members = torch.arange(len(images)) if members is None else members
        features, batch_size = partial(self._features, view), self._training.batch_size
        bank = FeatureBank(features, images, members, options, batch_size=batch_size, context=self._context)
        return bank if bank.num_rows * self._row_bytes(view) <= self._bytes_left and bank.num_rows < instead_of else None

    def _row_bytes(self, view: View | None) -> int:
        """The size of one image's features."""
        if view not in self._measured:
            image = self._data.train.image
            blank = torch.zeros(1, image.num_chs, image.height, image.width, dtype=torch.uint8, device=self._context.device)
            self._measured[view] = sum(features.nbytes for features in self._features(view, blank).values())
        return self._measured[view]

    def _features(self, view: View | None, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) images -> what the trained parts of the heads take, of the images' view."""
        device, dtype = self._context.device, self._context.autocast
        with torch.no_grad(), evaluating(self._backbone), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = self._backbone(images if view is None else view(images), list(self._heads))
            return {layer: head.condense(features[layer]) for layer, head in self._heads.items()}


# ------------------------------------------------------------------------------------------------------------------ copies


def num_copies(options: Augment) -> int:
    """How many ways there are to crop and flip an image; 1 without augmentation."""
    return (2 * options.crop_padding + 1) ** 2 * (1 + options.horizontal_flip)


def plain_copy(options: Augment) -> int:
    """The copy that is the image itself: not flipped, with the crop in the middle."""
    num_crops = (2 * options.crop_padding + 1) ** 2
    return num_crops // 2 * (1 + options.horizontal_flip)


def copy_numbers(draws: Draws, options: Augment) -> Tensor | int:
    """The copies that draws make: (N,) int64 below ``num_copies``, in the order of :func:`all_draws`; 0 where nothing is random."""
    crops = 0
    if draws.offsets is not None:
        top, left = draws.offsets
        crops = top * (2 * options.crop_padding + 1) + left
    return crops if draws.flip is None else 2 * crops + draws.flip


def all_draws(options: Augment, device: torch.device) -> Draws:
    """The draws that make each copy once: ``num_copies`` of them."""
    side = 2 * options.crop_padding + 1
    numbers = torch.arange(num_copies(options), device=device)
    crops = numbers // (1 + options.horizontal_flip)
    offsets = torch.stack([crops // side, crops % side]) if options.crop_padding else None
    return Draws(offsets, numbers % 2 == 1 if options.horizontal_flip else None)
