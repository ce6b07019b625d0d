"""The steps of sslkit's own training loop, timed one by one, some of them under torch's profiler."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from measurement.backward_split import BackwardSplit
from measurement.groups import DATA
from measurement.product import AUGMENT
from measurement.workload import Workload
from sslkit import Batch, DataInfo, Loader, Objective, RunContext, Step, StepEnd, TrainingOptions, fit
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.events import Event
from sslkit.contract.runtime import Runtime
from sslkit_rotnet import RotNet

WARM_UP = 3
TURNS = ("plain", "profiled", "plain")
"""What steps are after the warm-up, the same number in each."""


@dataclass
class Steps:
    """Times the steps of a training loop, with the profiler on in the middle third of them.

    Attributes:
        device: of the training.
        number: steps in each of the ``TURNS``.
        seconds: of each step after the warm-up.
    """

    device: torch.device
    number: int
    seconds: list[float] = field(default_factory=list)
    _seen: int = 0
    _since: float = 0.0

    def __post_init__(self) -> None:
        devices = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *devices])

    def observe(self, event: Event) -> None:
        """After a step."""
        if not isinstance(event, StepEnd):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._seen += 1
        if self._seen > WARM_UP:
            self.seconds.append(time.perf_counter() - self._since)
        if self._seen == WARM_UP + self.number:
            self.profiler.start()
        elif self._seen == WARM_UP + 2 * self.number:
            self.profiler.stop()
        self._since = time.perf_counter()

    def enough(self) -> bool:
        """Whether all turns are over."""
        return self._seen >= WARM_UP + len(TURNS) * self.number

    def of(self, turn: str) -> list[float]:
        """Seconds of the steps in one kind of turn."""
        return [seconds for index, seconds in enumerate(self.seconds) if TURNS[index // self.number] == turn]


def train(work: Workload, steps: Steps) -> float:
    """Pretrain for as long as steps are watched.

    Returns:
        The share of gradients of inputs in the backward pass of convolutions.
    """
    images = work.data().load("pretrain")
    assert images is not None
    objective = RotNet().build_objective(work.network(images.image), DataInfo(images.image, len(images)))
    _mark_as_data(objective)
    loader = _MarkedLoader(images, batch_size=work.batch_size, device=work.device, options=AUGMENT)
    autocast = Runtime().resolve_autocast(work.device)
    context = RunContext(
        stage="profile", seed=0, device=work.device, runtime=Runtime(compile=False), emit=steps.observe, should_stop=steps.enough
    )
    with suppress(RunInterruptedError):
        fit(objective, loader, None, TrainingOptions(batch_size=work.batch_size, epochs=1000), context)
    return _data_share(objective, next(loader.in_order()), autocast)


class _MarkedLoader(Loader):
    """Shows the making of batches to the profiler."""

    def batches(self, *arguments: Any, **options: Any) -> Iterator[Batch]:
        source = super().batches(*arguments, **options)
        while True:
            with record_function(DATA):
                batch = next(source, None)
            if batch is None:
                return
            yield batch


def _mark_as_data(objective: Objective) -> None:
    """Show the making of views to the profiler."""
    make_views: Callable[..., dict[str, Tensor]] = objective.make_views

    def marked(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        with record_function(DATA):
            return make_views(*arguments, **options)

    objective.make_views = marked


def _data_share(objective: Objective, batch: Batch, autocast: torch.dtype | None) -> float:
    views = objective.make_views(batch, torch.Generator(batch.images.device), train=True)
    with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
        loss = objective(views, Step(objective.phases[0])).loss
    with BackwardSplit() as split:
        loss.backward()
    return split.data_share
