"""A teacher: a copy of the student that follows it by an exponential moving average (EMA)."""

import copy
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Literal, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import OptionError

_Place = tuple[nn.Module, nn.Module, Callable[[nn.Module], Tensor]]
"""The teacher's module, the student's, and the getter of one parameter or buffer of both."""


class Teacher(nn.Module):
    """A copy of a backbone, and of a head on it, whose weights are a moving average of the student's (arXiv:1703.01780).

    No gradient reaches it and no optimizer holds it; a checkpoint does. Move it in ``Objective.on_after_step`` with :meth:`update`. An
    objective that hands it over to later stages returns ``teacher.backbone`` from ``exported_backbone``.

    Args:
        backbone: the student's, which is copied. The teacher keeps a reference to it, and averages its weights at each update.
        head: the student's; None: the teacher returns the backbone's features.
        statistics: what its BatchNorm normalises with. ``average``: the moving average of the student's running statistics, in eval
            mode, so that its output for an image does not depend on the batch. ``batch``: those of each batch while the objective
            trains, as the student's does, and for eval mode running statistics of its own, as in the published code of
            arXiv:1911.05722, 2006.07733 and 2104.14294. The rest of the teacher, dropout above all, is in eval mode in any case.

    Attributes:
        backbone: the copy.
        head: the copy; ``nn.Identity`` where there is none.
    """

    def __init__(self, backbone: Backbone, head: nn.Module | None = None, *, statistics: Literal["average", "batch"] = "average") -> None:
        super().__init__()
        if statistics not in ("average", "batch"):
            raise OptionError("statistics", "is unknown", found=statistics, allowed=("average", "batch"))
        self._students = backbone, nn.Identity() if head is None else head  # in a tuple, which registers no module a second time
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.head = copy.deepcopy(self._students[1]).requires_grad_(False)
        self._own_statistics = statistics == "batch"
        self._places: tuple[list[_Place], list[_Place]] | None = None
        self.train(backbone.training)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(False)
        if self._own_statistics:
            for module in _normalizing(self):
                module.training = mode
        return self

    @override
    @torch.no_grad()
    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        """The head's output for the pooled features of ``images``: float32, without gradients.

        Args:
            images: (N, C, H, W).
            layer: whose pooled features the head is given; None: the deepest.
        """
        return self.head(self.backbone.embed(images, layer)).float()

    def update(self, momentum: float) -> None:
        """Move every parameter and buffer towards the student's: ``momentum * mine + (1 - momentum) * theirs``, in float32 and in a few
        launches. What is not floating-point, such as BatchNorm's counter of batches, is copied.

        Args:
            momentum: in [0, 1]; a number, as ``context.schedule`` has it: reading a tensor would stall a GPU.

        Raises:
            OptionError: the momentum is out of range.
        """
        if not 0.0 <= momentum <= 1.0:
            raise OptionError("momentum", "is out of range", found=momentum, allowed="0 to 1: how much of the teacher stays")
        if self._places is None:  # kept because walking through all modules takes longer than the update
            self._places = self._find_places()
        averaged, copied = self._places
        with torch.no_grad():
            torch._foreach_lerp_(*_tensors(averaged), 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]
            if copied:
                torch._foreach_copy_(*_tensors(copied))  # pyright: ignore[reportPrivateImportUsage]

    def _find_places(self) -> tuple[list[_Place], list[_Place]]:
        """The floating-point tensors, and the others."""
        averaged, copied = list[_Place](), list[_Place]()
        own = set(_normalizing(self)) if self._own_statistics else set[nn.Module]()
        for copied_part, student in zip((self.backbone, self.head), self._students, strict=True):
            for mine, theirs in zip(copied_part.modules(), student.modules(), strict=True):
                buffers = [] if mine in own else mine.named_buffers(recurse=False)
                for name, tensor in chain(mine.named_parameters(recurse=False), buffers):
                    (averaged if tensor.is_floating_point() else copied).append((mine, theirs, attrgetter(name)))
        return averaged, copied


def _tensors(places: list[_Place]) -> tuple[list[Tensor], list[Tensor]]:
    """The teacher's and the student's: looked up each time because moving a module, or assigning to a buffer, replaces them."""
    return [value_of(mine) for mine, _, value_of in places], [value_of(theirs) for _, theirs, value_of in places]


def _normalizing(module: nn.Module) -> list[nn.Module]:
    """Every module in it with running statistics: BatchNorm of any kind."""
    return [child for child in module.modules() if any(name == "running_mean" for name, _ in child.named_buffers(recurse=False))]
