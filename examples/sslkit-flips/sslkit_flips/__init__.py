"""Which way was an image mirrored? A whole plugin for sslkit, to copy: the task holds the options, its objective makes the views."""

from dataclasses import dataclass

import torch

from sslkit import Backbone, Batch, Classification, DataInfo, OptionError, PretextTask, hookimpl

AXES = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}  # of (N, C, H, W) images, which each flip reverses


@dataclass(frozen=True, kw_only=True)
class Flips(PretextTask):
    """Mirror every image in one of the ways of ``flips``, drawn at random, and predict which."""

    flips: tuple[str, ...] = tuple(AXES)

    def __post_init__(self) -> None:
        if len(self.flips) < 2 or len(set(self.flips)) < len(self.flips) or not set(self.flips) <= set(AXES):
            raise OptionError("flips", "must be two or more, all different", found=self.flips, allowed=AXES)

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "FlipPrediction":
        return FlipPrediction(backbone, self.flips)


class FlipPrediction(Classification):
    def make_views(self, batch: Batch, generator: torch.Generator, *, train: bool) -> dict[str, torch.Tensor]:
        labels = torch.randint(len(self.classes), (len(batch.images),), generator=generator, device=batch.images.device)
        flipped = torch.stack([batch.images.flip(AXES[flip]) for flip in self.classes])  # (K, N, C, H, W)
        return {"images": flipped[labels, torch.arange(len(labels), device=labels.device)], "labels": labels}


@hookimpl
def pretext_tasks() -> dict[str, type[PretextTask]]:
    return {"flips": Flips}
