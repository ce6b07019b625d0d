"""What watching and keeping cost: the same training unobserved and observed, with no checkpoint and with one after each step.

Neither cost depends on the batch, and that of events not on the network: in a step of seconds, which is never twice the same, they could
not be seen. So the batch is tiny, and for events the network is too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from measurement.interleave import Plan, interleave
from measurement.results import JobResult, Spread, cell, plain
from measurement.worker import Variant
from measurement.workload import Workload
from sslkit.contract.runtime import Runtime

_BATCH_SIZE = 2
_WIDTH = 0.05


class Overhead(NamedTuple):
    """Costs.

    Attributes:
        events: seconds that the log and the progress display add to a step.
        checkpoint: seconds that writing one checkpoint takes.
        problem: why something is missing.
    """

    events: Spread | None
    checkpoint: Spread | None
    problem: str = ""

    def as_json(self, step_seconds: Sequence[float]) -> dict[str, Any]:
        """With each cost as a part of training time, in percent.

        Args:
            step_seconds: of the steps that the costs are set against, by round; empty: not known.
        """
        step, interval = Spread.of(step_seconds), 60 * Runtime().checkpoint_minutes
        percent = self.events.median / step.median * 100 if self.events and step else None
        return {
            "events_s_per_step": plain(self.events),
            "events_percent_of_step": percent,
            "checkpoint_s": plain(self.checkpoint),
            "checkpoint_interval_s": interval,
            "checkpoint_percent_of_step": self.checkpoint.median / interval * 100 if self.checkpoint else None,
            **({"problem": self.problem} if self.problem else {}),
        }

    def lines(self, step_seconds: Sequence[float]) -> list[str]:
        """For people."""
        known = self.as_json(step_seconds)
        percent = known["events_percent_of_step"]
        of_step = "" if percent is None else f", {percent:.2g} % of a step of pretraining"
        share = known["checkpoint_percent_of_step"]
        of_time = "" if share is None else f", {share:.2g} % of the time with one every {known['checkpoint_interval_s']:.0f} s"
        return [f"events, s a step: {cell(self.events)}{of_step}", f"checkpoint, s: {cell(self.checkpoint)}{of_time}", self.problem]


def measure_overhead(workload: Workload, plan: Plan) -> Overhead:
    """Measure both costs for pretraining; that of checkpoints at the workload's width."""
    small = replace(workload, job="pretrain", batch_size=min(_BATCH_SIZE, workload.batch_size))
    variants = [
        Variant("unobserved", "measurement.product:run_bare", replace(small, width=_WIDTH)),
        Variant("observed", "measurement.product:run_without_checkpoints", replace(small, width=_WIDTH)),
        Variant("without checkpoints", "measurement.product:run_without_checkpoints", small),
        Variant("with checkpoints", "measurement.product:run_with_checkpoint_each_step", small),
    ]
    records = interleave(variants, plan)
    if problem := "; ".join(f"{name} {record.problem}" for name, record in records.items() if record.problem):
        return Overhead(None, None, problem)
    unobserved, observed, without, with_each = (JobResult("overhead", records).step_seconds(name) for name in records)
    return Overhead(_differences(observed, unobserved), _differences(with_each, without))


def _differences(first: Sequence[float], second: Sequence[float]) -> Spread | None:
    return Spread.of(a - b for a, b in zip(first, second, strict=True))
