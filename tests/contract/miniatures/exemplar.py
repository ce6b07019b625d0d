"""Which image was this made from? Dosovitskiy et al. 2014 (arXiv:1406.6909). A subset of the images are surrogate classes."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from sslkit import Backbone, Batch, Classification, DataInfo, OptionError, PretextTask, TrainContext
from sslkit.views import color_jitter


@final
@dataclass(frozen=True, kw_only=True)
class Exemplar(PretextTask):
    """Attributes:
    num_classes: images that are a class each.
    copies: how often each is seen in an epoch.
    """

    num_classes: int = 10
    copies: int = 2

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "SurrogateClassification":
        if data.num_images is None or data.num_images < self.num_classes:
            raise OptionError("num_classes", "is more than there are images", found=self.num_classes, allowed=f"1 to {data.num_images}")
        return SurrogateClassification(backbone, self, data.num_images)


class SurrogateClassification(Classification):
    heldout_phase = None  # a held-out image is none of the classes

    exemplars: Tensor

    def __init__(self, backbone: Backbone, options: Exemplar, num_images: int) -> None:
        super().__init__(backbone, options.num_classes)
        self.copies = options.copies
        self.num_images = num_images
        self.register_buffer("exemplars", torch.arange(options.num_classes))

    def on_epoch_start(self, context: TrainContext) -> None:
        if context.epoch == 0:
            chosen = torch.randperm(self.num_images, generator=context.generator("exemplars"))[: len(self.exemplars)]
            self.exemplars.copy_(chosen.sort().values)

    def epoch_indices(self, context: TrainContext) -> Tensor:
        return self.exemplars.repeat(self.copies)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        labels = torch.searchsorted(self.exemplars, batch.indices)
        return {"images": color_jitter(batch.images, brightness=0.5, hue=0.1, generator=generator), "labels": labels}
