"""What does the teacher say of the other view? Grill et al. 2020 (arXiv:2006.07733)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Objective, PretextTask, Step, StepOutput, Teacher, TrainContext, projector
from sslkit.views import color_jitter, random_resized_crop


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
        self.projector = projector([backbone.width, backbone.width, 4])
        self.predictor = projector([4, 8, 4])
        self.teacher = Teacher(backbone, self.projector)

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"momentum": lambda progress: 1 - (1 - self.options.momentum) * (1 + math.cos(math.pi * progress)) / 2}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        crops = [random_resized_crop(batch.images, size=self.options.crop, generator=generator) for _ in range(2)]
        return {name: color_jitter(crop, brightness=0.5, generator=generator) for name, crop in zip(("one", "two"), crops, strict=True)}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        loss = self._distance(views["one"], views["two"]) + self._distance(views["two"], views["one"])
        return StepOutput(loss.mean(), {})

    def _distance(self, seen: Tensor, other: Tensor) -> Tensor:
        predicted = self.predictor(self.projector(self.backbone.embed(seen)))
        return 2 - 2 * F.cosine_similarity(predicted, self.teacher(other))

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        self.teacher.update(context.schedule["momentum"])
