"""``metrics.jsonl``: one JSON object a line, training and held-out metrics by step."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from sslkit.contract.errors import StorageError
from sslkit.contract.events import Event, FeaturesMeasured, FitStart, HeldoutEnd, Record, StepEnd
from sslkit.storage.atomic import append_line, written_whole
from sslkit.storage.json_files import MAX_INTEGER, MIN_INTEGER


class MetricsLog(Record):
    """Writes a stage's metrics to its folder.

    A resumed fit repeats the steps after its checkpoint; their earlier lines are dropped, so that every step is in the file once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def observe(self, event: Event) -> None:
        if isinstance(event, FitStart):
            self._drop_repeated(event)
        elif isinstance(event, StepEnd) and event.metrics:
            self._append("train", event)
        elif isinstance(event, HeldoutEnd):
            self._append("heldout", event)
        elif isinstance(event, FeaturesMeasured):
            self._append("features", event)

    def _append(self, split: str, event: StepEnd | HeldoutEnd | FeaturesMeasured) -> None:
        line = {"split": split, "part": event.part, "step": event.step, "epoch": round(event.epoch, 4), **event.metrics}
        try:
            text = json.dumps(line, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StorageError(f"{self._path}: what was measured in step {event.step} cannot be written ({error})") from error
        append_line(self._path, text)

    def _drop_repeated(self, start: FitStart) -> None:
        """Held-out images are measured right after a step and, except at the beginning of an epoch, before its checkpoint counts: that
        measurement comes again. Features are measured right before a step, and always come again.
        """
        after = {"train": True, "heldout": start.measured}  # whether what was measured at the step that the fit begins at is kept
        kept = [
            line
            for line in read_metrics(self._path)
            if line["part"] != start.part or line["step"] < start.step + after.get(line["split"], False)
        ]
        with written_whole(self._path) as file:
            file.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, oldest first; empty where there is none."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, RecursionError):  # a crash may have cut it short
            if _is_line(line := json.loads(text)):
                lines.append(line)
    return lines


def _is_line(value: Any) -> bool:
    """Whether it is an object of ours: where and when, and numbers."""
    if not isinstance(value, dict) or not isinstance(value.get("split"), str) or not isinstance(value.get("part"), str):
        return False
    numbers = [entry for key, entry in value.items() if key not in ("split", "part")]
    plain = all(
        (type(entry) is float and math.isfinite(entry)) or (type(entry) is int and MIN_INTEGER <= entry <= MAX_INTEGER) for entry in numbers
    )
    return plain and type(value.get("step")) is int and "epoch" in value
