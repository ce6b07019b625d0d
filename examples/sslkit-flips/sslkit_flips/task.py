"""The pretext task: which way was an image mirrored?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sslkit import Backbone, Batch, DataInfo, Mean, Objective, OptionError, Prediction, PretextTask, Step, StepOutput, without_autocast

AXES = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}
"""The axes of (N, C, H, W) images that each flip reverses."""


@final
@dataclass(frozen=True, kw_only=True)
class Flips(PretextTask):
    """Mirror every image in one way, drawn at random, and predict which.

    Attributes:
        flips: the classes, at least two, all different.
    """

    flips: tuple[Literal["none", "horizontal", "vertical", "both"], ...] = ("none", "horizontal", "vertical", "both")

    def __post_init__(self) -> None:
        if len(self.flips) < 2 or len(set(self.flips)) < len(self.flips):
            raise OptionError("flips", "must be two or more, all different", found=self.flips, allowed=AXES)

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "FlipPrediction":
        """A linear classifier of the flips on the backbone's deepest layer."""
        return FlipPrediction(backbone, self.flips)


class FlipPrediction(Objective):
    """Cross-entropy of a linear head on the averaged deepest layer.

    Args:
        backbone: the network to pretrain.
        flips: the K classes, names of ``AXES``.
    """

    heldout_phase = "main"

    def __init__(self, backbone: Backbone, flips: Sequence[str]) -> None:
        super().__init__(backbone)
        self.classes = tuple(flips)
        self.axes = tuple(AXES[flip] for flip in flips)
        self.head = nn.Linear(backbone.feature_info[-1].num_chs, len(self.axes))

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        """``images`` (N, C, H, W) uint8, each under one of the K flips, and ``labels`` (N,) int64, which one."""
        num_images, device = len(batch.images), batch.images.device
        labels = torch.randint(len(self.axes), (num_images,), generator=generator, device=device)
        flipped = torch.stack([batch.images.flip(axes) for axes in self.axes])  # (K, N, C, H, W): a few copies, but no loop over images
        return {"images": flipped[labels, torch.arange(num_images, device=device)], "labels": labels}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        """Also measures ``top1``: how often the flip is recognised, in percent."""
        features = self.backbone.embed(views["images"])
        with without_autocast(features.device):
            logits = self.head(features)
        top1 = Mean.of((logits.argmax(dim=1) == views["labels"]) * 100)
        return StepOutput(F.cross_entropy(logits, views["labels"]), {"top1": top1}, {"flip": Prediction(logits.detach(), views["labels"])})

    def captions(self, views: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Under each image the flip that it went through."""
        return {"images": [self.classes[label] for label in views["labels"].tolist()]}
