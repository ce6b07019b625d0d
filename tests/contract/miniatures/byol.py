"""What does the teacher say of the other view? Grill et al. 2020 (arXiv:2006.07733)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Objective, PretextTask, Step, StepOutput, TrainContext
from tests.contract.miniatures.random_views import random_brightness, random_crop
from tests.contract.miniatures.teacher import Teacher


@final
@dataclass(frozen=True, kw_only=True)
class BYOL(PretextTask):
    """Attributes:
    crop: side of a view, in pixels.
    momentum: of the teacher's moving average at the start; it rises to 1.
    """

    crop: int = 12
    momentum: float = 0.9

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "Bootstrap":
        return Bootstrap(backbone, self)


class Bootstrap(Objective):
    def __init__(self, backbone: Backbone, options: BYOL) -> None:
        super().__init__(backbone)
        self.options = options
        width = backbone.feature_info[-1].num_chs
        self.projector = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4))
        self.predictor = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.teacher = Teacher(backbone, self.projector)

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"momentum": lambda progress: 1 - (1 - self.options.momentum) * (1 + math.cos(math.pi * progress)) / 2}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {name: random_brightness(random_crop(batch.images, self.options.crop, generator), generator) for name in ("one", "two")}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        loss = self._distance(views["one"], views["two"]) + self._distance(views["two"], views["one"])
        return StepOutput(loss.mean(), {})

    def _distance(self, seen: Tensor, predicted: Tensor) -> Tensor:
        online = self.predictor(self.projector(self.backbone.embed(seen))).float()
        return 2 - 2 * F.cosine_similarity(online, self.teacher(predicted).float())

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        self.teacher.follow(self.backbone, self.projector, context.schedule["momentum"])
