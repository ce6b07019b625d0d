"""``metrics.jsonl``: one JSON object a line, training and held-out metrics by step."""

import json
import math
from pathlib import Path
from typing import Any

from typing_extensions import override

from sslkit.contract.errors import StorageError
from sslkit.contract.events import Event, FitStart, HeldoutEnd, Record, StepEnd
from sslkit.storage.atomic import append_line, written_whole
from sslkit.storage.limits import MAX_INTEGER, MIN_INTEGER


class MetricsLog(Record):
    """Writes a stage's metrics to its folder.

    A resumed fit repeats the steps after its checkpoint; their earlier lines are dropped, so that every step stands there once.

    Args:
        path: the file.
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

    def _append(self, split: str, event: StepEnd | HeldoutEnd) -> None:
        line = {"split": split, "part": event.part, "step": event.step, "epoch": round(event.epoch, 4), **event.metrics}
        try:
            text = json.dumps(line, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StorageError(f"{self._path}: what was measured in step {event.step} cannot be written ({error})") from error
        append_line(self._path, text)

    def _drop_repeated(self, start: FitStart) -> None:
        lines = read_metrics(self._path)
        kept = [line for line in lines if line["part"] != start.part or not _is_repeated(line, start)]
        with written_whole(self._path) as file:
            file.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, oldest first; empty where there is none."""
    if not path.exists():
        return []
    return [line for line in map(_parse, path.read_text(encoding="utf-8").splitlines()) if line is not None]


def _is_repeated(line: dict[str, Any], start: FitStart) -> bool:
    """Held-out images are measured right after a step and, but at the beginning of an epoch, before its checkpoint counts: that
    measurement comes again.
    """
    first = start.step + (line["split"] == "train" or start.measured)
    return line["step"] >= first


def _parse(line: str) -> dict[str, Any] | None:
    """None for a line that a crash cut short, or that is none of ours."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if _is_line(value) else None


def _is_line(value: Any) -> bool:
    """Whether it is an object of ours: where and when, and numbers."""
    if not isinstance(value, dict) or not isinstance(value.get("split"), str) or not isinstance(value.get("part"), str):
        return False
    numbers = [entry for key, entry in value.items() if key not in ("split", "part")]
    plain = all(
        (type(entry) is float and math.isfinite(entry)) or (type(entry) is int and MIN_INTEGER <= entry <= MAX_INTEGER) for entry in numbers
    )
    return plain and type(value.get("step")) is int and "epoch" in value
