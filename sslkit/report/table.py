"""A table as one value, for the page, Markdown and CSV."""

import csv
import io
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sslkit.report.metrics import number, signed

Kind = Literal["text", "code", "figure", "signed", "count", "seconds"]
Layout = Literal["sortable", "folded", "facts", "cards"]

_WRITTEN = {"figure": number, "signed": signed, "count": "{:,.0f}".format, "seconds": "{:,.1f}".format}

_MARKUP = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


class Column(NamedTuple):
    """A column's heading, how its values are written, and what is shown where there is none."""

    name: str
    kind: Kind = "text"
    missing: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers, which are aligned to the right."""
        return self.kind in _WRITTEN


class Cell(NamedTuple):
    """One value, None where there is none."""

    value: str | float | None = None  # a text or a number, as the column's kind wants it
    std: float | None = None  # the standard deviation of a mean
    difference: float | None = None  # to the value that it is compared with
    strong: bool = False  # the best of its kind

    def text(self, column: Column) -> str:
        """The value alone, as a reader sees it."""
        if self.value is None:
            return column.missing
        return _WRITTEN[column.kind](float(self.value)) if column.numeric else str(self.value)

    def extra(self) -> str:
        """What follows the value."""
        std = "" if self.std is None else f" ± {number(self.std)}"
        return std if self.difference is None else f"{std} ({signed(self.difference)})"


def cells(*values: str | float | None) -> tuple[Cell, ...]:
    """A row of plain values."""
    return tuple(map(Cell, values))


@dataclass(frozen=True)
class Table:
    """A table. On the page, ``folded`` ones open on a click, ``facts`` have their headings in the first column, and ``cards`` show label,
    value and explanation.
    """

    key: str  # unique in a run's report; names the CSV file and the anchor
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]  # a cell for each column
    note: str = ""  # how to read it
    layout: Layout = "sortable"

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [[column.name for column in self.columns], ["---:" if column.numeric else "---" for column in self.columns]]
        for row in self.rows:
            texts = [escape_markdown(cell.text(column)) for cell, column in zip(row, self.columns, strict=True)]
            lines.append([(f"**{text}**" if cell.strong else text) + cell.extra() for cell, text in zip(row, texts, strict=True)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self) -> str:
        """The table with unrounded numbers; standard deviations and differences have columns of their own."""
        beside = [
            [part for part in ("std", "difference") if any(getattr(row[i], part) is not None for row in self.rows)]
            for i in range(len(self.columns))
        ]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            f"{column.name} {part}".strip() for column, parts in zip(self.columns, beside, strict=True) for part in ("", *parts)
        )
        for row in self.rows:
            writer.writerow(getattr(cell, part) for cell, parts in zip(row, beside, strict=True) for part in ("value", *parts))
        return file.getvalue()


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.replace("&", "&amp;").split()))
