"""Measured figures with all that belongs beside them: ``docs/results/<recipe>.json``, one record a cell."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.tables import Cell
from sslkit.run.artifacts import ARTIFACT, METRICS
from sslkit.storage.json_files import read_json, write_json
from sslkit.storage.metrics_log import read_metrics


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured figure.

    Attributes:
        recipe: the recipe that measured it, as it is called.
        metric: see :class:`~reproduction.tables.Cell`.
        value: in percent, unless the metric's name says otherwise.
        spread: standard deviation over subsets, where there were several.
        seed: of the run.
        data: what it was measured on.
        hardware: the device, in words.
        versions: of the packages that decide a figure.
        commit: of sslkit's checkout.
        date: on which the stage was finished.
        command: that repeats it.
        seconds: that the stage took, without the stages before it.
    """

    recipe: str
    metric: str
    value: float
    spread: float | None = None
    seed: int
    data: str
    hardware: str
    versions: Mapping[str, str]
    commit: str
    date: str
    command: str
    seconds: float

    @property
    def cell(self) -> Cell:
        """Which cell of which table it fills."""
        return Cell(self.recipe, self.metric)


def load_records(folder: Path) -> dict[Cell, Record]:
    """All records, by cell."""
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    records = [Record(**record) for table in tables for record in table["records"]]
    return {record.cell: record for record in records}


def save_records(folder: Path, records: Iterable[Record]) -> None:
    """Write the records, a file a recipe."""
    by_recipe: dict[str, list[Record]] = {}
    for record in records:
        by_recipe.setdefault(record.recipe, []).append(record)
    for recipe, own in by_recipe.items():
        write_json(folder / f"{recipe}.json", {"records": [dataclasses.asdict(record) for record in own]})


def collect(run: Path, recipe: str, cells: Iterable[Cell], *, data: str, command: str) -> list[Record]:
    """The records of a run's finished stages.

    Args:
        run: the run's folder.
        recipe: what the recipe is called, with its suffix.
        cells: of tables, whose recipes have none.
        data: what the figures were measured on.
        command: that repeats the run.
    """
    stages = {path.parent.relative_to(run).as_posix(): read_json(path) for path in sorted(run.glob(f"**/{ARTIFACT}"))}
    finished = {key: artifact for key, artifact in stages.items() if artifact.get("status") == "finished"}
    records = []
    for cell in cells:
        key = next((key for key in finished if cell.metric.startswith(f"{key}.")), None)
        if key is None or (value := _value(run / key, finished[key], cell.metric.removeprefix(f"{key}."))) is None:
            continue
        environment = finished[key]["environments"][-1]
        records.append(
            Record(
                recipe=recipe,
                metric=cell.metric,
                value=round(value, 4),
                spread=_spread(finished[key], cell.metric.removeprefix(f"{key}.")),
                seed=finished[key]["identity"]["seed"],
                data=data,
                hardware=finished[key]["device"],
                versions={"torch": environment["versions"]["torch"], "sslkit": environment["versions"]["sslkit"]},
                commit=environment.get("commit", ""),
                date=finished[key]["finished"][:10],
                command=command,
                seconds=finished[key]["seconds"],
            )
        )
    return records


def _value(stage: Path, artifact: Mapping[str, Any], metric: str) -> float | None:
    name, at, epoch = metric.partition("@")
    if not at:
        return artifact["metrics"].get(name)
    lines = [line for line in read_metrics(stage / METRICS) if line["split"] == "heldout" and line["epoch"] == float(epoch)]
    return lines[-1].get(name) if lines else None


def _spread(artifact: Mapping[str, Any], metric: str) -> float | None:
    spread = artifact["metrics"].get(f"{metric}_std")
    return None if spread is None else round(spread, 4)
