"""Floating-point operations of a training step, and how much of a GPU's peak a rate of images makes of it."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch.utils.flop_counter import FlopCounterMode

from measurement.limit import autocast, build_objective, make_views
from measurement.workload import Workload
from sslkit import Step

PEAKS: Mapping[str, float] = {
    r"H100 \d+GB HBM3$": 989e12,  # SXM; the PCIe and NVL cards are slower, and not in this table
    r"H200$": 989e12,
    r"A100": 312e12,
}
"""Dense bfloat16 FLOP/s by a GPU's name, from its makers' data sheets."""

_BATCH_SIZE = 4


def peak_of(gpu: str) -> float | None:
    """The dense bfloat16 peak of a GPU in FLOP/s; None for one that is not in the table."""
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, gpu)), None)


def flops_per_image(workload: Workload) -> float:
    """Of forward and backward, for one source image with all of its views; a multiplication and an addition are two.

    Convolutions and matrix products are counted, as is usual. Gradients that nobody needs are not: those of the images, those of a
    frozen network.
    """
    few = replace(workload, batch_size=min(_BATCH_SIZE, workload.batch_size))
    objective = build_objective(few)
    views = make_views(objective, few)
    with FlopCounterMode(display=False) as counter, autocast(few.device):
        objective(views, Step(objective.phases[0])).loss.backward()
    return counter.get_total_flops() / few.batch_size
