"""In which order were the tiles? Noroozi & Favaro 2016 (arXiv:1603.09246). The backbone is built for a tile."""

from dataclasses import dataclass
from itertools import permutations
from typing import final

import torch
from torch import Generator, Tensor

from sslkit import Backbone, Batch, DataInfo, ImageSpec, Linear, Objective, OptionError, PretextTask, Step, StepOutput, classify


@final
@dataclass(frozen=True, kw_only=True)
class Jigsaw(PretextTask):
    """Attributes:
    grid: tiles along each side.
    """

    grid: int = 2

    def image_spec(self, data: ImageSpec) -> ImageSpec:
        if data.height % self.grid or data.width % self.grid:
            raise OptionError("grid", f"does not divide images of {data.height} x {data.width}", found=self.grid)
        return data._replace(height=data.height // self.grid, width=data.width // self.grid)

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "PermutationPrediction":
        return PermutationPrediction(backbone, self.grid)


class PermutationPrediction(Objective):
    permutations: Tensor

    def __init__(self, backbone: Backbone, grid: int) -> None:
        super().__init__(backbone)
        self.grid = grid
        # Not persistent: the options alone determine it.
        self.register_buffer("permutations", torch.tensor(list(permutations(range(grid**2)))), persistent=False)
        self.head = Linear(grid**2 * backbone.width, len(self.permutations))

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        images, device = batch.images, batch.images.device
        height, width = (side // self.grid for side in images.shape[-2:])
        tiles = images.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (N, grid², C, h, w)
        labels = torch.randint(len(self.permutations), (len(images),), generator=generator, device=device)
        shuffled = tiles[torch.arange(len(images), device=device)[:, None], self.permutations[labels]]
        return {"tiles": shuffled.transpose(0, 1).flatten(0, 1), "labels": labels}  # place after place

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        features = self.backbone.embed(views["tiles"]).unflatten(0, (self.grid**2, -1))  # (grid², N, D)
        return classify(self.head(features.transpose(0, 1).flatten(1)), views["labels"])
