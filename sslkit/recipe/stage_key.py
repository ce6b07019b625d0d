"""A stage's key taken apart: ``blocks3/object/epoch=10`` is the stage ``object`` of a sweep's variant, on a snapshot."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_EPOCH = re.compile(r"epoch=(\d+)")


class StageKey(NamedTuple):
    """Where a stage stands in its run.

    Attributes:
        variant: of the sweep; empty for a stage that all variants share.
        name: what the recipe calls the stage.
        epoch: of the snapshot that it measures; None for a final network.
    """

    variant: str
    name: str
    epoch: int | None = None

    @property
    def series(self) -> str:
        """The key without the epoch: what the stages on one network's snapshots have in common."""
        return f"{self.variant}/{self.name}" if self.variant else self.name


def parse_key(key: str) -> StageKey:
    """Take a key apart."""
    rest, _, last = key.rpartition("/")
    epoch = _EPOCH.fullmatch(last)
    if epoch is None or not rest:
        return StageKey(rest, last)
    variant, _, name = rest.rpartition("/")
    return StageKey(variant, name, int(epoch[1]))


def labels(keys: Iterable[str]) -> dict[str, str]:
    """What tells several stages apart: the variant if all have one name, else the whole key. Snapshots are not told apart."""
    parsed = {key: parse_key(key) for key in keys}
    one_name = len({stage.name for stage in parsed.values()}) == 1
    return {key: stage.variant if one_name and stage.variant else stage.series for key, stage in parsed.items()}
