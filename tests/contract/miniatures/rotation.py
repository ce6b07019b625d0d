"""Which way up? Gidaris et al. 2018 (arXiv:1803.07728)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from sslkit import Backbone, Batch, Classification, DataInfo, PretextTask


@final
@dataclass(frozen=True, kw_only=True)
class Rotation(PretextTask):
    def build_objective(self, backbone: Backbone, data: DataInfo) -> "RotationPrediction":
        return RotationPrediction(backbone, classes=4)


class RotationPrediction(Classification):
    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        labels = torch.arange(4, device=batch.images.device).repeat_interleave(len(batch.images))
        return {"images": torch.cat([batch.images.rot90(turns, (-2, -1)) for turns in range(4)]), "labels": labels}
