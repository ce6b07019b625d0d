"""Several runs side by side: a row per metric, a column per run."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslkit.contract.errors import ArtifactError
from sslkit.report.metrics import better
from sslkit.report.run_folder import RunFolder, read_run
from sslkit.report.table import Cell, Column, Table

PathLike = str | os.PathLike[str]


class Compared(NamedTuple):
    """One metric, ``<stage>.<metric>``, and its value in each run; None where a run lacks it."""

    metric: str
    values: tuple[float | None, ...]

    @property
    def best(self) -> list[int]:
        """The indices of the best values; empty where none is better than another."""
        finite = {value for value in self.values if value is not None and math.isfinite(value)}
        if len(finite) < 2 or (way := better(self.metric)) is None:
            return []
        best = max(finite) if way == "higher" else min(finite)
        return [index for index, value in enumerate(self.values) if value == best]

    @property
    def differences(self) -> tuple[float | None, ...]:
        """To the first run; None for itself, and where either value is missing."""
        first = self.values[0]
        return (None, *(None if value is None or first is None else value - first for value in self.values[1:]))


class Comparison(NamedTuple):
    """Runs, with labels that distinguish them, and every metric of any run. The others are compared with the first."""

    labels: tuple[str, ...]
    runs: tuple[RunFolder, ...]
    rows: tuple[Compared, ...]

    def table(self) -> Table:
        """For a person: the best in bold, differences to the first run in parentheses."""
        columns = (Column("metric", "code"), *(Column(label, "figure", missing="-") for label in self.labels))
        note = f"Differences are to {self.labels[0]}. Accuracies are in percent; the best is bold where it is known which way is better."
        rows = []
        for row in self.rows:
            pairs = enumerate(zip(row.values, row.differences, strict=True))
            compared = (Cell(value, difference=difference, strong=index in row.best) for index, (value, difference) in pairs)
            rows.append((Cell(row.metric), *compared))
        return Table("comparison", "Comparison", columns, tuple(rows), note=note)

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "runs": [
                {"label": label, "recipe": run.name, "folder": str(run.folder), "finished": run.finished, "pending": run.results.pending}
                for label, run in zip(self.labels, self.runs, strict=True)
            ],
            "metrics": {
                row.metric: {"values": _finite(row.values), "differences": _finite(row.differences), "best": row.best} for row in self.rows
            },
        }

    def unfinished(self) -> Iterator[str]:
        """A sentence for each run that is not finished."""
        for label, run in zip(self.labels, self.runs, strict=True):
            if not run.finished:
                yield f"{label} is not finished; still to run: {', '.join(run.results.pending) or 'unknown'}"


def read_runs(folders: Sequence[PathLike]) -> tuple[RunFolder, ...]:
    """Read several runs; an ``ArtifactError`` where a folder is not a run's, or is given twice."""
    paths = [Path(folder) for folder in folders]
    seen: dict[Path, Path] = {}
    for folder in paths:
        if (before := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise ArtifactError("a run is given twice", found=[str(before), str(folder)], fix="name each run's folder once")
    return tuple(read_run(folder) for folder in paths)


def compare_runs(folders: Sequence[PathLike]) -> Comparison:
    """Read two or more runs and compare their metrics side by side.

    Args:
        folders: the runs'; the first is what the others are compared with.

    Raises:
        ArtifactError: there are not two, or a folder is not a run's, or is given twice.
    """
    if len(folders) < 2:
        found, fix = list(map(str, folders)), "name another run's folder, or look at this one alone: sslkit report"
        raise ArtifactError("there is nothing to compare with", found=found, allowed="two runs or more", fix=fix)
    return compare(read_runs(folders))


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """The metrics of runs side by side: first those that all runs have, then the others, each in the order in which they were measured."""
    values = [{f"{row.stage}.{row.metric}": row.value for row in run.results.rows()} for run in runs]
    metrics = dict.fromkeys(metric for own in values for metric in own)
    rows = [Compared(metric, tuple(own.get(metric) for own in values)) for metric in metrics]
    return Comparison(distinguishing_labels(runs), tuple(runs), tuple(sorted(rows, key=lambda row: row.values.count(None))))


def distinguishing_labels(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    """The recipes' names; the folders' where two have the same."""
    names = [run.name for run in runs]
    return tuple(name if names.count(name) == 1 else str(run.folder) for run, name in zip(runs, names, strict=True))


def _finite(values: Sequence[float | None]) -> list[float | None]:
    """JSON cannot hold NaN and infinities."""
    return [value if value is not None and math.isfinite(value) else None for value in values]
