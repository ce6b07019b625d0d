"""Which variants each job has, and a job measured."""

from collections.abc import Callable, Mapping, Sequence

import torch

from measurement import peer
from measurement.gate import Slice
from measurement.interleave import Plan, Record, interleave
from measurement.results import JobResult
from measurement.worker import Variant
from measurement.workload import JobName, Workload

ENTRIES: Mapping[str, str] = {
    "limit": "measurement.limit:run",
    "limit, CUDA graphs": "measurement.limit:run_graphs",
    "sslkit": "measurement.product:run",
    "eager": "measurement.product:run_eager",
    "compiled": "measurement.product:run_compiled",
    "CUDA graphs": "measurement.product:run_graphs",
    "unobserved": "measurement.product:run_bare",
    "common": "measurement.common:run",
    peer.NAME: "measurement.peer:run",
}
"""How to do a job: see the modules."""

_ALL = ("limit", "sslkit", "common", peer.NAME)
_WITHOUT_LIMIT = _ALL[1:]

VARIANTS: Mapping[JobName, tuple[str, ...]] = {
    "pretrain": ("limit", "sslkit", "unobserved", "common", peer.NAME),
    "linear_probe": _ALL,
    "mlp_probe": _ALL,
    "conv_probe": _ALL,
    "finetune": _ALL,
    "features": _ALL,
    "data_path": _WITHOUT_LIMIT,
    "knn": _WITHOUT_LIMIT,
}
"""Of each job. Data path and nearest neighbours have no limit that we know."""

QUICK: Mapping[JobName, tuple[str, ...]] = {
    "pretrain": ("limit", "sslkit", "common"),
    "data_path": ("sslkit",),
    "features": ("sslkit",),
}
"""What two minutes are enough for."""


def plan_for(device: torch.device, *, rounds: int, seconds: float, quick: bool) -> Plan:
    """How to measure on a device.

    On a GPU the warm-up takes in a whole epoch of CIFAR-10: what its smaller last batch needs is not seen before. On a CPU memory has
    been faulted in after a step, and loader workers have been started.
    """
    steps = 400 if device.type == "cuda" else 1 if quick else 2
    return Plan(rounds, Slice(1, seconds), warm_up=Slice(steps))


def measure(
    workload: Workload, variants: Sequence[str], plan: Plan, *, on_round: Callable[[JobResult], None] = lambda _result: None
) -> JobResult:
    """Measure variants of a job in turns. One that cannot be measured has a problem in its record, and is not left out.

    Args:
        workload: the job.
        variants: names of ``ENTRIES``.
        plan: how to measure.
        on_round: called after each round with all that is known so far.
    """
    missing = {peer.NAME: peer.problem()} if peer.NAME in variants else {}
    runnable = [name for name in variants if not missing.get(name)]

    def result(measured: Mapping[str, Record]) -> JobResult:
        return JobResult(workload.job, {name: measured.get(name) or Record(problem=missing[name]) for name in variants})

    entries = [Variant(name, ENTRIES[name], workload) for name in runnable]
    return result(interleave(entries, plan, on_round=lambda measured: on_round(result(measured))))
