"""A table as one value, shown alike on the page, in Markdown and as CSV."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sslkit.report.formatting import number, signed

Kind = Literal["text", "code", "figure", "signed", "count", "seconds"]
Layout = Literal["sortable", "folded", "facts", "cards"]

_WRITTEN = {"figure": number, "signed": signed, "count": "{:,.0f}".format, "seconds": "{:,.1f}".format}

_MARKUP = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


class Column(NamedTuple):
    """What stands in a column.

    Attributes:
        name: its heading.
        kind: how its values are written.
        missing: what stands where there is no value.
    """

    name: str
    kind: Kind = "text"
    missing: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers, which stand to the right."""
        return self.kind in _WRITTEN


class Cell(NamedTuple):
    """One value.

    Attributes:
        value: a text or a number, as the column's kind wants it; None where there is none.
        std: the standard deviation of a mean.
        difference: to a value that it is compared with.
        strong: whether it is the best of its kind.
    """

    value: str | float | None = None
    std: float | None = None
    difference: float | None = None
    strong: bool = False

    def text(self, column: Column) -> str:
        """The value alone, as a reader sees it."""
        if self.value is None:
            return column.missing
        return _WRITTEN[column.kind](float(self.value)) if column.numeric else str(self.value)

    def extra(self) -> str:
        """What stands behind the value."""
        std = "" if self.std is None else f" ± {number(self.std)}"
        return std if self.difference is None else f"{std} ({signed(self.difference)})"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: unique in a report of one run; names the CSV file and the anchor.
        title: what it shows.
        columns: their headings and kinds.
        rows: a cell for each column.
        note: how to read it, in a sentence or two.
        layout: how the page shows it: ``folded`` tables open on a click, ``facts`` have their headings in the first column, and
            ``cards`` show label, figure and explanation.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    layout: Layout = "sortable"

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [
            _markdown_row(column.name for column in self.columns),
            _markdown_row("---:" if column.numeric else "---" for column in self.columns),
            *(_markdown_row(_markdown_cell(*pair) for pair in zip(row, self.columns, strict=True)) for row in self.rows),
        ]
        return "\n".join(lines)

    def csv(self) -> str:
        """The table with unrounded numbers; standard deviations and differences have columns of their own."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        parts = [self._parts(index) for index in range(len(self.columns))]
        writer.writerow(f"{column.name} {part}".strip() for column, own in zip(self.columns, parts, strict=True) for part in ("", *own))
        for row in self.rows:
            writer.writerow(_raw(value) for cell, own in zip(row, parts, strict=True) for value in (cell.value, *_of(cell, own)))
        return file.getvalue()

    def _parts(self, index: int) -> list[str]:
        """What some cell of a column has beside its value."""
        return [part for part in ("std", "difference") if any(value is not None for row in self.rows for value in _of(row[index], [part]))]


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.replace("&", "&amp;").split()))


def _markdown_row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell, column: Column) -> str:
    text = escape_markdown(cell.text(column))
    return (f"**{text}**" if cell.strong else text) + cell.extra()


def _of(cell: Cell, parts: list[str]) -> list[float | None]:
    values = {"std": cell.std, "difference": cell.difference}
    return [values[part] for part in parts]


def _raw(value: str | float | None) -> str:
    return "" if value is None else str(value)
