"""What was behind the mask? He et al. 2022 (arXiv:2111.06377). Needs a backbone that encodes a part of the patches."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, Batch, DataInfo, ImageSpec, Objective, PretextTask, Step, StepOutput


@final
@dataclass(frozen=True, kw_only=True)
class MAE(PretextTask):
    """Attributes:
    mask_ratio: the part of the patches that is hidden.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"masked_encode"})
    mask_ratio: float = 0.75

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "MaskedAutoencoding":
        return MaskedAutoencoding(backbone, self.mask_ratio, data.image)


class MaskedAutoencoding(Objective):
    def __init__(self, backbone: Backbone, mask_ratio: float, image: ImageSpec) -> None:
        super().__init__(backbone)
        info = backbone.feature_info[-1]
        self.patch = info.reduction
        self.num_patches = (image.height // self.patch) * (image.width // self.patch)
        self.num_kept = self.num_patches - round(mask_ratio * self.num_patches)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, info.num_chs))
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.num_patches, info.num_chs))
        self.decoder = nn.Sequential(nn.Linear(info.num_chs, 16), nn.GELU(), nn.Linear(16, image.num_chs * self.patch**2))

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        order = torch.rand(len(batch.images), self.num_patches, generator=generator, device=batch.images.device).argsort(dim=1)
        return {"images": batch.images, "keep": order[:, : self.num_kept], "masked": order[:, self.num_kept :]}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        seen = self.backbone.masked_encode(views["images"], views["keep"])  # (N, L_keep, D)
        queries = _rows((self.mask_token + self.positions).expand(len(seen), -1, -1), views["masked"])
        predicted = self.decoder(queries + F.scaled_dot_product_attention(queries, seen, seen))
        patches = F.unfold(views["images"].float() / 255, self.patch, stride=self.patch).transpose(1, 2)  # (N, L, C * patch²)
        return StepOutput(F.mse_loss(predicted.float(), _rows(patches, views["masked"])), {})


def _rows(tokens: Tensor, positions: Tensor) -> Tensor:
    """(N, L, D) and (N, M) positions -> (N, M, D)."""
    return tokens.gather(1, positions[:, :, None].expand(-1, -1, tokens.shape[2]))
