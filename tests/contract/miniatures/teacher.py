"""A teacher that follows its student by an exponential moving average (EMA), for the methods without negatives."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from sslkit import Backbone


class Teacher(nn.Module):
    """A copy of a backbone and a head that no gradient reaches. It stays in eval mode: its BatchNorm statistics are averages too."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.head = copy.deepcopy(head)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.embed(images))

    def follow(self, backbone: Backbone, head: nn.Module, momentum: float) -> None:
        """Move every parameter and every buffer towards the student's; counters are copied."""
        students = chain(backbone.state_dict().values(), head.state_dict().values())
        for mine, theirs in zip(self.state_dict().values(), students, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - momentum)
            else:
                mine.copy_(theirs)
