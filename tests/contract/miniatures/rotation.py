"""Which way up? Gidaris et al. 2018 (arXiv:1803.07728)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Mean, Objective, PretextTask, Step, StepOutput


@final
@dataclass(frozen=True, kw_only=True)
class Rotation(PretextTask):
    def build_objective(self, backbone: Backbone, data: DataInfo) -> "RotationPrediction":
        return RotationPrediction(backbone)


class RotationPrediction(Objective):
    heldout_phase = "main"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(backbone.feature_info[-1].num_chs, 4)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        labels = torch.arange(4, device=batch.images.device).repeat_interleave(len(batch.images))
        return {"images": torch.cat([batch.images.rot90(turns, (-2, -1)) for turns in range(4)]), "labels": labels}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        logits = self.head(self.backbone.embed(views["images"]))
        correct = logits.argmax(dim=1) == views["labels"]
        return StepOutput(F.cross_entropy(logits, views["labels"]), {"top1": Mean.of(correct * 100.0)})
