"""Variants in turns: A B C, A B C ... Machines drift by ten percent within minutes, but hardly between two slices beside each other."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from measurement.gate import Measured, Slice
from measurement.worker import Variant, Worker
from sslkit.errors import RunFailedError


class Plan(NamedTuple):
    """How to measure.

    Attributes:
        rounds: turns of each variant.
        slice: what a variant does in a turn.
        warm_up: what it does before the first, its set-up included.
        pause: seconds between two turns, in which the last one's loader workers fill their queues and fall silent.
    """

    rounds: int
    slice: Slice = Slice()
    warm_up: Slice = Slice()
    pause: float = 1.0


@dataclass
class Record:
    """What became of a variant.

    Attributes:
        slices: one a round.
        problem: why there are none, or no more of them; empty where all went well.
    """

    slices: list[Measured] = field(default_factory=list)
    problem: str = ""

    @property
    def rates(self) -> list[float]:
        """Source images a second, by round; empty for a variant with a problem."""
        return [] if self.problem else [part.images / part.seconds for part in self.slices]


def interleave(variants: Sequence[Variant], plan: Plan) -> dict[str, Record]:
    """Measure variants in turns. One that fails is left out from then on; the others go on.

    Returns:
        What became of each, by name.
    """
    records = {variant.name: Record() for variant in variants}
    with ExitStack() as stack:
        workers = {variant.name: stack.enter_context(Worker(variant)) for variant in variants}
        for turn in range(1 + plan.rounds):
            for name, record in records.items():
                if not record.problem:
                    _take_turn(workers[name], record, plan, warm_up=turn == 0)
    return records


def _take_turn(worker: Worker, record: Record, plan: Plan, *, warm_up: bool) -> None:
    try:
        measured = worker.run(plan.warm_up if warm_up else plan.slice)
    except RunFailedError as error:
        record.problem = f"failed: {error}"
        return
    if not warm_up:
        record.slices.append(measured)
    time.sleep(plan.pause)
