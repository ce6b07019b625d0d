"""Which other view is of the same image? Chen et al. 2020 (arXiv:2002.05709)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Mean, Objective, PretextTask, Step, StepOutput, gather, projector, without_autocast
from sslkit.views import color_jitter, grayscale, horizontal_flip, random_resized_crop


@final
@dataclass(frozen=True, kw_only=True)
class SimCLR(PretextTask):
    """Attributes:
    size: side of a view, in pixels.
    temperature: of the softmax over similarities.
    """

    size: int = 12
    temperature: float = 0.5

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "NTXent":
        return NTXent(backbone, self)


class NTXent(Objective):
    def __init__(self, backbone: Backbone, options: SimCLR) -> None:
        super().__init__(backbone)
        self.options = options
        self.projector = projector([backbone.width, backbone.width, 8], norm=False)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        images = torch.cat([random_resized_crop(batch.images, size=self.options.size, generator=generator) for _ in range(2)])
        images = color_jitter(images, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8, generator=generator)
        images = grayscale(horizontal_flip(images, generator=generator), probability=0.2, generator=generator)
        return {"images": images}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        z = F.normalize(self.projector(self.backbone.embed(views["images"])))
        z = torch.cat([gather(view) for view in z.chunk(2)])  # (2N, D), the partner of i is i + N
        with without_autocast(z.device):  # similarities in bfloat16 would tie
            logits = (z @ z.T / self.options.temperature).fill_diagonal_(-torch.inf)
        partners = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return StepOutput(F.cross_entropy(logits, partners), {"top1": Mean.of((logits.argmax(dim=1) == partners) * 100.0)})
