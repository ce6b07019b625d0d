"""An objective's forward pass, compiled where that was asked for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslkit.contract.evaluator import RunContext
from sslkit.contract.objective import Objective, StepOutput
from sslkit.training.features import evaluating
from sslkit.training.seeds import global_seed


class ForwardPass:
    """Calls ``Objective.forward`` in training: compiled on full batches, as it is on others at an epoch's end, for which nothing is compiled again.

    Which of the two depends on the number of images alone, so that a resumed epoch computes what an uninterrupted one does.

    Args:
        objective: on the context's device.
        batch_size: images of a full batch.
        context: whether to compile, and for CUDA graphs or not.
    """

    def __init__(self, objective: Objective, batch_size: int, context: RunContext) -> None:
        self._objective = objective
        self._batch_size = batch_size
        compiled = context.runtime.resolve_compile(context.device)
        self._graphs = compiled and context.runtime.cuda_graphs and context.device.type == "cuda"
        self._device = context.device
        self._checked = not compiled
        self._full = compile_objective(objective, cuda_graphs=self._graphs) if compiled else objective

    def __call__(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor], *, num_images: int) -> StepOutput:
        """One phase's loss on the views of ``num_images`` images."""
        if num_images != self._batch_size:
            return self._objective(views, phase, schedule)
        if not self._checked:
            self._run_uncompiled(views, phase, schedule)
            self._checked = True
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # from here on the last call's outputs may be overwritten
        return self._full(views, phase, schedule)

    def _run_uncompiled(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> None:
        """Once and without effect, so that the backbone can check the range of float images, which a compiled one cannot."""
        with torch.no_grad(), evaluating(self._objective), global_seed(0, self._device):
            self._objective(views, phase, schedule)


def compile_objective(objective: Objective, *, cuda_graphs: bool) -> Any:
    """``torch.compile``; with CUDA graphs the whole pass is recorded once and replayed, which needs fixed shapes.

    Shapes are fixed in any case: those of full batches. Not told so, torch compiles a fit whose batches are of another size than an
    earlier fit's for batches of any size, which is slower.
    """
    return torch.compile(objective, dynamic=False, mode="reduce-overhead" if cuda_graphs else "default")


def autocast_of(context: RunContext) -> torch.autocast:
    """What a forward pass runs under."""
    # Not cached: before torch 2.11, weights that a teacher's pass without gradient had cast first got none in the student's.
    return torch.autocast(context.device.type, dtype=context.autocast, enabled=context.autocast is not None, cache_enabled=False)
