"""Where the time of a training step goes: what torch's profiler saw, summed by kind of work."""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, Self

DATA = "data"
"""Also the name of the profiler's range around the making of batches and views."""

BACKWARD = "convolution, backward"
REST = "other operations"
PYTHON = "Python, or waiting"

_RULES: Mapping[str, str] = {
    DATA: rf"^{DATA}$",
    "optimizer": r"^Optimizer\.",
    BACKWARD: r"onvolution.*backward|onvolution\w*Backward",
    "convolution, forward": r"conv2d|convolution",
    "BatchNorm": r"batch_norm|BatchNorm",
    "ReLU": r"relu|Relu|threshold",
    "pooling": r"pool|Pool",
    "head and loss": r"linear|addmm|Addmm|::mm$|softmax|Softmax|nll_loss|NllLoss|cross_entropy|::mean$|MeanBackward|argmax",
}
"""A group's name, and what the name of an event in it looks like; the first that fits."""

GROUPS = (*_RULES, REST, PYTHON)


class ProfilerEvent(Protocol):
    """What is used of ``torch.autograd.profiler_util.FunctionEvent``; times in microseconds."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def cpu_parent(self) -> Self | None: ...  # noqa: D102
    @property
    def self_cpu_time_total(self) -> float: ...  # noqa: D102
    @property
    def self_device_time_total(self) -> float: ...  # noqa: D102


def group(event: ProfilerEvent) -> str:
    """The group of the outermost event around this one that has one: a copy within a convolution is part of the convolution."""
    path: list[str] = []
    node: ProfilerEvent | None = event
    while node is not None:
        path.insert(0, node.name)
        node = node.cpu_parent
    for name in path:
        for label, pattern in _RULES.items():
            if re.search(pattern, name):
                return label
    return REST


def seconds_by_group(events: Iterable[ProfilerEvent], wall: float, *, on_device: bool) -> dict[str, float]:
    """Sum up self times.

    Args:
        events: all of them.
        wall: seconds that they were recorded in; what no event accounts for is Python's, or waiting.
        on_device: take the time of a GPU's kernels, not that of their launches.
    """
    sums = dict.fromkeys(GROUPS, 0.0)
    for event in events:
        sums[group(event)] += 1e-6 * (event.self_device_time_total if on_device else event.self_cpu_time_total)
    sums[PYTHON] = wall - sum(sums.values())
    return sums
