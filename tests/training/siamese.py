"""Methods that compare two views, in miniature: healthy, and each with the fault that makes it collapse."""

import copy
from collections.abc import Mapping

import torch
from tests.contract.miniatures.random_views import random_brightness, random_crop
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, Objective, Represented, StepOutput, TrainContext
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.images import tiny_images

WIDTH = 8
"""Of projections."""


def backbone() -> Backbone:
    return TinyConv(tiny_images(1).image, width=WIDTH, dropout=0.0)


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, WIDTH))


class Siamese(Objective):
    """Two random views of each image, and a projection of their features."""

    collapse_cause = "a fault was planted"

    def __init__(self, *, healthy: bool = True) -> None:
        super().__init__(backbone())
        self.healthy = healthy
        self.projector = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {name: random_brightness(random_crop(batch.images, 12, generator), generator) for name in ("one", "two")}

    def represent(self, images: Tensor) -> Represented:
        features = self.backbone.embed(images)
        return Represented({"features": features, "projection": self.projector(features)})

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        one, two = (self.projector(self.backbone.embed(views[name])) for name in ("one", "two"))
        return StepOutput(self.loss(one, two, views), {})

    def loss(self, one: Tensor, two: Tensor, views: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class SimSiam(Siamese):
    """Chen & He 2021 (arXiv:2011.10566); the fault: no stop-gradient."""

    def __init__(self, *, healthy: bool = True) -> None:
        super().__init__(healthy=healthy)
        self.predictor = mlp(WIDTH)

    def loss(self, one: Tensor, two: Tensor, views: dict[str, Tensor]) -> Tensor:
        targets = [target.detach() if self.healthy else target for target in (two, one)]
        return -sum(F.cosine_similarity(self.predictor(view), target).mean() for view, target in zip((one, two), targets, strict=True))


class VICReg(Siamese):
    """Bardes et al. 2022 (arXiv:2105.04906), eq. 6; the fault: the weight of the variance term is zero, and embeddings shrink to nothing."""

    def represent(self, images: Tensor) -> Represented:
        return Represented({"projection": F.pad(self.projector(self.backbone.embed(images)), (0, 1), value=1.0)})

    def loss(self, one: Tensor, two: Tensor, views: dict[str, Tensor]) -> Tensor:
        variance = sum(F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean() for z in (one, two))
        covariance = sum((z.T.cov() * (1 - torch.eye(WIDTH))).square().sum() / WIDTH for z in (one, two))
        return 5 * F.mse_loss(one, two) + (2.5 * variance if self.healthy else 0.0) + 0.2 * covariance


class Bootstrap(Siamese):
    """As BYOL without a predictor, Grill et al. 2020 (arXiv:2006.07733); the fault: the teacher's momentum is 0, so it is the student."""

    momentum = 0.999

    def __init__(self, *, healthy: bool = True) -> None:
        super().__init__(healthy=healthy)
        self.teacher = nn.ModuleList([copy.deepcopy(self.backbone), copy.deepcopy(self.projector)]).requires_grad_(False)

    def loss(self, one: Tensor, two: Tensor, views: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            targets = [self.teach(views[name]) for name in ("two", "one")]
        return -sum(F.cosine_similarity(view, target).mean() for view, target in zip((one, two), targets, strict=True))

    def teach(self, images: Tensor) -> Tensor:
        encoder, projector = self.teacher
        return projector(encoder.embed(images))

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        student = [*self.backbone.state_dict().values(), *self.projector.state_dict().values()]
        for mine, theirs in zip(self.teacher.state_dict().values(), student, strict=True):
            mine.copy_(mine.lerp(theirs, 1 - self.momentum if self.healthy else 1.0) if mine.is_floating_point() else theirs)


class DINO(Bootstrap):
    """Caron et al. 2021 (arXiv:2104.14294); the fault: the teacher's output is not centred."""

    momentum = 0.9
    center: Tensor

    def __init__(self, *, healthy: bool = True) -> None:
        super().__init__(healthy=healthy)
        self.projector = mlp(2 * WIDTH)
        self.teacher[1] = copy.deepcopy(self.projector).requires_grad_(False)
        self.prototypes = nn.Linear(WIDTH, 16, bias=False)
        self.register_buffer("center", torch.zeros(16))

    def represent(self, images: Tensor) -> Represented:
        return Represented({"features": self.teacher[0].embed(images)}, {"prototypes": self.assigned(self.teach(images))})

    def loss(self, one: Tensor, two: Tensor, views: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            taught = [self.teach(views[name]) for name in ("two", "one")]
            targets = [self.assigned(z) for z in taught]
            if self.training and self.healthy:
                self.center.lerp_(self.scores(torch.cat(taught)).mean(dim=0), 0.5)
        return sum(F.cross_entropy(self.scores(z) / 0.1, target) for z, target in zip((one, two), targets, strict=True))

    def assigned(self, projection: Tensor) -> Tensor:
        return ((self.scores(projection) - self.center) / 0.07).softmax(dim=1)

    def scores(self, projection: Tensor) -> Tensor:
        return self.prototypes(F.normalize(projection))

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        self.healthy, healthy = True, self.healthy  # the momentum is not its fault
        super().on_after_step(phase, context)
        self.healthy = healthy
