"""What was measured: rates and ratios, by round, then as median, minimum and maximum; as JSON and as a table."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from measurement.interleave import Record
from sslkit.storage import json_files

MIB = 2**20


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """None where there are no values."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def times(self, factor: float) -> Self:
        """The same in another unit."""
        return type(self)(self.median * factor, self.min * factor, self.max * factor)

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.min)} to {number(self.max)})"


def ratios(first: Sequence[float], second: Sequence[float]) -> Spread | None:
    """Round by round, so that what slows a machine down in one round touches both sides of its ratio."""
    return Spread.of(a / b for a, b in zip(first, second, strict=True)) if first and second else None


@dataclass(frozen=True)
class JobResult:
    """A job's variants.

    Attributes:
        job: its name.
        records: what became of each variant, by name.
    """

    job: str
    records: Mapping[str, Record]

    def rate(self, variant: str) -> Spread | None:
        """Source images a second; None for a variant without figures."""
        return Spread.of(self._rates(variant))

    def ratio(self, variant: str, over: str) -> Spread | None:
        """How many times as fast a variant is as another one; None where one of them has no figures."""
        return ratios(self._rates(variant), self._rates(over))

    def step_seconds(self, variant: str) -> list[float]:
        """Seconds a step, by round."""
        return [part.seconds / part.steps for part in self.records[variant].slices]

    def as_json(self, references: Sequence[str]) -> dict[str, Any]:
        """Every variant with its ratio to each of the ``references``."""
        return {name: self._describe(name, references) for name in self.records}

    def rows(self, references: Sequence[str]) -> list[list[str]]:
        """For a table: job, variant, ratios, images/s, peak memory in MiB of the process and of the GPU."""
        return [[self.job, name, *self._figures(name, references)] for name in self.records]

    def _rates(self, variant: str) -> list[float]:
        return self.records[variant].rates if variant in self.records else []

    def _describe(self, variant: str, references: Sequence[str]) -> dict[str, Any]:
        record = self.records[variant]
        described: dict[str, Any] = {"problem": record.problem} if record.problem else {}
        described |= {f"over_{other}": plain(self.ratio(variant, other)) for other in references}
        described |= {"images_per_s": plain(self.rate(variant)), "images_per_s_by_round": record.rates}
        if record.slices:
            last = record.slices[-1]
            described |= {"peak_rss_mib": round(last.peak_rss / MIB), "peak_gpu_mib": round(last.peak_gpu / MIB)}
        return described

    def _figures(self, variant: str, references: Sequence[str]) -> list[str]:
        record = self.records[variant]
        if record.problem:
            return ["" for _ in references] + [record.problem, "", ""]
        last = record.slices[-1]
        memory = [number(last.peak_rss / MIB), number(last.peak_gpu / MIB) if last.peak_gpu else ""]
        return [*(cell(self.ratio(variant, other)) for other in references), cell(self.rate(variant)), *memory]


def columns(references: Sequence[str]) -> list[str]:
    """The heads of :meth:`JobResult.rows`."""
    return ["job", "variant", *(f"over {name}" for name in references), "images/s", "peak RSS, MiB", "peak GPU, MiB"]


def plain(spread: Spread | None) -> dict[str, float] | None:
    """As JSON has it."""
    return None if spread is None else asdict(spread)


def cell(spread: Spread | None) -> str:
    """As a table has it."""
    return "" if spread is None else str(spread)


def number(value: float) -> str:
    """Three digits that count, whole numbers whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown that can be read as it stands. Columns without a cell are left out."""
    body = [list(row) for row in rows]
    kept = [index for index in range(len(heads)) if any(row[index] for row in body)]
    lines = [[heads[index] for index in kept], *([row[index] for index in kept] for row in body)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(kept))]
    shown = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [shown[0], rule, *shown[1:]])


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report where a file was asked for, whole or not at all."""
    if path is not None:
        json_files.write_json(path, report)
