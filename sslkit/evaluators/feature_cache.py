"""The frozen backbone under one fit or several, and which of its features are worth keeping."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import RunContext
from sslkit.contract.images import Augment, ImageSet, LabeledData
from sslkit.evaluators.feature_bank import FeatureBank, num_copies
from sslkit.evaluators.heads import Head
from sslkit.training.features import evaluating
from sslkit.training.options import TrainingOptions

BUDGET = 4 * 2**30
"""Bytes that kept features may take. A number, not what happens to be free: a resumed run must take the same path as one that was not."""


@final
class FrozenTrunk:
    """A frozen backbone that fits share. Its features are kept where that spares it images, and where they fit into ``BUDGET``.

    Args:
        backbone: on the context's device.
        heads: by layer; heads of every fit take the same features.
        data: the images.
        training: how the fits train.
        context: where and how to run.
        subsets: (M,) int64 for each fit, the training images it may use; None: all.
        images_per_epoch: of every fit; None: as many as there are training images.

    Attributes:
        test: features of the test images, if several fits ask for them; else each computes its own.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        data: LabeledData,
        training: TrainingOptions,
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
        self._row_bytes = self._measure_row()
        self.test = self._bank(data.test, None, Augment(), instead_of=len(data.test) * len(subsets))
        if self.test is not None:
            self._bytes_left -= self.test.num_rows * self._row_bytes
        self._shared = self._bank_of_all(subsets)

    def train(self, subset: Tensor | None) -> FeatureBank | None:
        """Features of a fit's training images, if they are worth keeping.

        Args:
            subset: one of ``subsets``.
        """
        return self._shared or self._bank(self._data.train, subset, self._training.augment, instead_of=self._num_drawn)

    def _bank(self, images: ImageSet, members: Tensor | None, options: Augment, *, instead_of: int) -> FeatureBank | None:
        """A bank that takes fewer images through the network than fits would without it, and no more memory than is left."""
        members = _all_of(images) if members is None else members
        bank = FeatureBank(self._features, images, members, options, batch_size=self._training.batch_size, context=self._context)
        return bank if bank.num_rows < instead_of and bank.num_rows * self._row_bytes <= self._bytes_left else None

    def _bank_of_all(self, subsets: Sequence[Tensor | None]) -> FeatureBank | None:
        """One bank for all fits, if that is less work than one for each: where their subsets overlap."""
        images, augment = self._data.train, self._training.augment
        chosen = [_all_of(images) if subset is None else subset for subset in subsets]
        alone = sum(min(len(members) * num_copies(augment), self._num_drawn) for members in chosen)
        return self._bank(images, torch.cat(chosen).unique(), augment, instead_of=alone)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) uint8 images -> what the heads' trained parts take."""
        device, dtype = self._context.device, self._context.autocast
        with torch.no_grad(), evaluating(self._backbone), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = self._backbone(images, list(self._heads))
            return {layer: head.condense(features[layer]) for layer, head in self._heads.items()}

    def _measure_row(self) -> int:
        """Bytes of one image's features."""
        image = self._data.train.image
        blank = torch.zeros(1, image.num_chs, image.height, image.width, dtype=torch.uint8, device=self._context.device)
        return sum(features.nbytes for features in self._features(blank).values())


def _all_of(images: ImageSet) -> Tensor:
    return torch.arange(len(images))
