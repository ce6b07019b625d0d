"""``docs/results.md``, written from the records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reproduction.claims import judge
from reproduction.records import Record
from reproduction.tables import Cell, Table

CPU_SUFFIX = "_cpu"
_VERDICTS = {True: "holds", False: "**does not hold here**", None: "open"}


def render(records: Mapping[Cell, Record], tables: Sequence[Table], cpu_tables: Sequence[Table], paper: Mapping[Cell, float]) -> str:
    """The document.

    Args:
        records: all there are.
        tables: of the recipes at the paper's size.
        cpu_tables: of their CPU variants.
        paper: the paper's results, by cell.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    return environment.get_template("results.md.jinja").render(
        full=[_shown(table, records, "", paper) for table in tables],
        cpu=[_shown(table, records, CPU_SUFFIX, {}) for table in cpu_tables],
        claims=judge(records, ""),
        cpu_claims=judge(records, CPU_SUFFIX),
        verdicts=_VERDICTS,
    )


def _shown(table: Table, records: Mapping[Cell, Record], suffix: str, paper: Mapping[Cell, float]) -> dict[str, object]:
    """A table's rows as text, and what belongs beside them."""
    used = [records[key] for cell in table.cells() if (key := _key(cell, suffix)) in records]
    rows = [[label, *(_text(row.get(column), records, suffix, paper) for column in table.columns)] for label, row in table.rows.items()]
    return {
        "title": table.title,
        "header": [table.corner, *table.columns],
        "rows": rows,
        "note": table.note,
        "measured": len(used),
        "cells": sum(1 for _ in table.cells()),
        "circumstances": list(dict.fromkeys(_circumstance(record) for record in used)),
        "commands": list(dict.fromkeys(record.command for record in used)),
    }


def _key(cell: Cell, suffix: str) -> Cell:
    return cell._replace(recipe=cell.recipe + suffix)


def _text(cell: Cell | None, records: Mapping[Cell, Record], suffix: str, paper: Mapping[Cell, float]) -> str:
    if cell is None:
        return ""
    record = records.get(_key(cell, suffix))
    ours = "–" if record is None else f"{record.value:.2f}" + ("" if record.spread is None else f" ± {record.spread:.2f}")
    return f"{ours} ({paper[cell]:.2f})" if cell in paper else ours


def _circumstance(record: Record) -> str:
    commit = f", commit {record.commit}" if record.commit else ""
    return f"{record.data}; {record.hardware}; torch {record.versions['torch']}; {record.date}{commit}; seed {record.seed}"
