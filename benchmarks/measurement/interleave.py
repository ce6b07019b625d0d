"""Variants in turns: A B C, A B C ... Machines drift by ten percent within minutes, but hardly between two slices beside each other."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from measurement.gate import Measured, Slice
from measurement.worker import Variant, Worker
from sslkit.contract.errors import RunFailedError


class Plan(NamedTuple):
    """How to measure.

    Attributes:
        rounds: turns of each variant.
        slice: what a variant does in a turn.
        warm_up: what it does before the first, its set-up included.
        pause: seconds between two turns, in which the last one's loader workers fill their queues and fall silent.
        ready_within: seconds in which all variants warm up at the same time; one that takes longer is left out. None: one warms up
            after the other, for as long as it takes, as on a CPU, where they would only slow each other down.
    """

    rounds: int
    slice: Slice = Slice()
    warm_up: Slice = Slice()
    pause: float = 1.0
    ready_within: float | None = None


@dataclass
class Record:
    """What became of a variant.

    Attributes:
        slices: one a round.
        problem: why there are none, or no more of them; empty where all went well.
        before_first: seconds from the start of its process to the end of its first step: imports, set-up and compiling. An upper bound
            where others warmed up at the same time.
    """

    slices: list[Measured] = field(default_factory=list)
    problem: str = ""
    before_first: float | None = None

    @property
    def rates(self) -> list[float]:
        """Source images a second, by round; empty for a variant with a problem."""
        return [] if self.problem else [part.images / part.seconds for part in self.slices]


def interleave(
    variants: Sequence[Variant], plan: Plan, *, on_round: Callable[[Mapping[str, Record]], None] = lambda _records: None
) -> dict[str, Record]:
    """Measure variants in turns. One that fails is left out from then on; the others go on.

    Args:
        variants: what to measure.
        plan: how.
        on_round: called after the warm-up and after each round with all that is known so far.

    Returns:
        What became of each, by name.
    """
    records = {variant.name: Record() for variant in variants}
    with ExitStack() as stack:
        workers = {variant.name: stack.enter_context(Worker(variant)) for variant in variants}
        _warm_up(workers, records, plan)
        on_round(records)
        time.sleep(plan.pause)
        for _ in range(plan.rounds):
            for name, record in records.items():
                if not record.problem:
                    workers[name].ask(plan.slice)
                    if (measured := _answer(workers[name], record)) is not None:
                        record.slices.append(measured)
                    time.sleep(plan.pause)
            on_round(records)
    return records


def _warm_up(workers: Mapping[str, Worker], records: Mapping[str, Record], plan: Plan) -> None:
    if plan.ready_within is None:
        for name, worker in workers.items():
            worker.ask(plan.warm_up)
            _note_start(worker, records[name])
        return
    deadline = time.monotonic() + plan.ready_within
    for worker in workers.values():
        worker.ask(plan.warm_up)
    for name, worker in workers.items():
        if worker.is_ready(max(0.0, deadline - time.monotonic())):
            _note_start(worker, records[name])
        else:
            records[name].problem = f"failed: was not ready within {plan.ready_within:.0f} seconds"
            worker.stop()  # what it is still busy with would disturb the others


def _note_start(worker: Worker, record: Record) -> None:
    if (measured := _answer(worker, record)) is not None:
        record.before_first = measured.first_step - worker.started


def _answer(worker: Worker, record: Record) -> Measured | None:
    try:
        return worker.answer()
    except RunFailedError as error:
        record.problem = f"failed: {error}"
        return None
