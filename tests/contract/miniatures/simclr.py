"""Which other view is of the same image? Chen et al. 2020 (arXiv:2002.05709)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Mean, Objective, PretextTask, Step, StepOutput
from tests.contract.miniatures.random_views import random_brightness, random_crop


@final
@dataclass(frozen=True, kw_only=True)
class SimCLR(PretextTask):
    """Attributes:
    crop: side of a view, in pixels.
    temperature: of the softmax over similarities.
    """

    crop: int = 12
    temperature: float = 0.5

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "NTXent":
        return NTXent(backbone, self)


class NTXent(Objective):
    heldout_phase = "main"

    def __init__(self, backbone: Backbone, options: SimCLR) -> None:
        super().__init__(backbone)
        self.options = options
        width = backbone.feature_info[-1].num_chs
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        crops = torch.cat([random_crop(batch.images, self.options.crop, generator) for _ in range(2)])
        return {"images": random_brightness(crops, generator)}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        z = F.normalize(self.projector(self.backbone.embed(views["images"])).float())  # (2N, D), the partner of i is i + N
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.options.temperature).masked_fill(itself, -torch.inf)
        partners = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return StepOutput(F.cross_entropy(logits, partners), {"top1": Mean.of((logits.argmax(dim=1) == partners) * 100.0)})
