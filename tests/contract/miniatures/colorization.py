"""Which colours? Zhang et al. 2016 (arXiv:1603.08511), as a regression. The backbone sees the lightness alone."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataError, DataInfo, ImageSpec, Objective, PretextTask, Step, StepOutput


@final
@dataclass(frozen=True, kw_only=True)
class Colorization(PretextTask):
    def image_spec(self, data: ImageSpec) -> ImageSpec:
        if data.color != "rgb":
            raise DataError("colorization needs images in colour", found=data.color, allowed="rgb")
        return data._replace(color="lightness", mean=(0.5,), std=(0.25,))

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "ChromaRegression":
        return ChromaRegression(backbone)


class ChromaRegression(Objective):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.layer = backbone.feature_info[-1].name
        self.head = nn.Conv2d(backbone.width, 2, 1)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {"images": batch.images, "chroma": chroma(batch.images)}  # rgb: the backbone itself converts it to lightness

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        predicted = self.head(self.backbone(views["images"], [self.layer])[self.layer])
        wanted = F.adaptive_avg_pool2d(views["chroma"], predicted.shape[-2:])
        return StepOutput(F.mse_loss(predicted.float(), wanted), {})


def chroma(images: Tensor) -> Tensor:
    """a* and b* of CIELAB under D65, over 100: (N, 3, H, W) uint8 sRGB -> (N, 2, H, W)."""
    rgb = images.float() / 255
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = linear.new_tensor([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    xyz = torch.einsum("ij,njhw->nihw", to_xyz / to_xyz.sum(dim=1, keepdim=True), linear)  # relative to the white point
    x, y, z = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-6) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29).unbind(1)
    return torch.stack([5 * (x - y), 2 * (y - z)], dim=1)
