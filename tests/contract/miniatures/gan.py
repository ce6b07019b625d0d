"""Real or generated? DCGAN, Radford et al. 2016 (arXiv:1511.06434). The discriminator is the backbone; there are two phases."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, ImageSpec, Linear, Mean, Objective, PretextTask, Step, StepOutput


@final
@dataclass(frozen=True, kw_only=True)
class GAN(PretextTask):
    """Attributes:
    noise_size: length of the vectors that images are generated from.
    """

    noise_size: int = 6

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "AdversarialTraining":
        return AdversarialTraining(backbone, self.noise_size, data.image)


class AdversarialTraining(Objective):
    phases = ("discriminator", "generator")

    def __init__(self, backbone: Backbone, noise_size: int, image: ImageSpec) -> None:
        super().__init__(backbone)
        self.noise_size = noise_size
        self.head = Linear(backbone.width, 1)
        self.generator = nn.Sequential(
            nn.Linear(noise_size, 8 * (image.height // 4) * (image.width // 4), bias=False),
            nn.Unflatten(1, (8, image.height // 4, image.width // 4)),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, image.num_chs, 4, stride=4),
            nn.Sigmoid(),
        )

    def parameter_groups(self) -> dict[str, list[dict]]:
        return {
            "discriminator": [{"params": [*self.backbone.parameters(), *self.head.parameters()]}],
            "generator": [{"params": list(self.generator.parameters()), "lr_scale": 0.5}],
        }

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        noise = torch.randn(len(batch.images), self.noise_size, generator=generator, device=batch.images.device)
        return {"images": batch.images, "noise": noise}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        generated = self.generator(views["noise"]).float()
        if step.phase == "generator":
            return StepOutput(F.softplus(-self._realness(generated)).mean(), {})
        real, fake = self._realness(views["images"]), self._realness(generated.detach())
        return StepOutput(F.softplus(-real).mean() + F.softplus(fake).mean(), {"top1": Mean.of(torch.cat([real > 0, fake < 0]) * 100.0)})

    def _realness(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.embed(images))
