"""Which prototype does the teacher choose? Caron et al. 2021 (arXiv:2104.14294). Multi-crop; the teacher is exported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, Linear, Objective, PretextTask, Step, StepOutput, Teacher, TrainContext
from sslkit.views import color_jitter, multi_crop


@final
@dataclass(frozen=True, kw_only=True)
class DINO(PretextTask):
    """Attributes:
    global_crop: side of the two views that both networks see, in pixels.
    local_crop: side of the two that only the student sees.
    num_prototypes: width of the output.
    """

    global_crop: int = 12
    local_crop: int = 8
    num_prototypes: int = 6

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "SelfDistillation":
        return SelfDistillation(backbone, self)


class SelfDistillation(Objective):
    center: Tensor

    def __init__(self, backbone: Backbone, options: DINO) -> None:
        super().__init__(backbone)
        self.options = options
        self.head = Linear(backbone.width, options.num_prototypes)
        self.teacher = Teacher(backbone, self.head, statistics="batch")
        self.register_buffer("center", torch.zeros(options.num_prototypes))

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"momentum": lambda progress: 0.9 + 0.1 * progress, "temperature": lambda progress: 0.04 + 0.03 * progress}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        sizes, scales = (self.options.global_crop, self.options.local_crop), ((0.4, 1.0), (0.05, 0.4))
        crops = multi_crop(batch.images, size=sizes, num_crops=(2, 2), scale=scales, generator=generator)
        return dict(zip(("global", "local"), [color_jitter(crop, brightness=0.5, generator=generator) for crop in crops], strict=True))

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        taught = self.teacher(views["global"])  # (2N, K)
        targets = ((taught - self.center) / step.schedule["temperature"]).softmax(dim=1).chunk(2)
        crops = [crop for name in ("global", "local") for crop in self.head(self.backbone.embed(views[name])).chunk(2)]
        pairs = [(target, crop) for i, target in enumerate(targets) for j, crop in enumerate(crops) if i != j]
        if self.training:  # in float32: in bfloat16 a small step would be rounded away
            self.center.lerp_(taught.mean(dim=0), 0.1)
        return StepOutput(torch.stack([F.cross_entropy(crop / 0.1, target) for target, crop in pairs]).mean(), {})

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        self.teacher.update(context.schedule["momentum"])

    def exported_backbone(self) -> Backbone:
        return self.teacher.backbone
