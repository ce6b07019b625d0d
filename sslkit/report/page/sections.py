"""What a report says of one run, section by section; a section without content is left out."""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from sslkit.report.charts.accuracy import draw_few_labels, draw_layers, few_labels_table
from sslkit.report.charts.epochs import draw_curves, draw_trajectory
from sslkit.report.pictures.all import Pictures
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder
from sslkit.report.tables.run_tables import (
    classes_table,
    environment_table,
    facts_table,
    margins_table,
    pivot_tables,
    recall_table,
    results_table,
    stages_table,
)
from sslkit.report.tables.table import Table

T = TypeVar("T")

_MANY_ROWS = 30
"""Beyond so many metrics the whole list is folded, where other tables sum up the most of it."""


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        key: unique in a report of one run; its anchor.
        title: its heading.
        note: a sentence below the heading.
        tables: in order.
        pictures: below the tables.
        source: a text file, folded.
    """

    key: str
    title: str
    note: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    source: str = ""


def run_sections(run: RunFolder, pictures: Pictures) -> list[Section]:
    """The sections of one run that have something to show."""
    return [section for section in _all(run, pictures) if section.tables or section.pictures or section.source or section.note]


def _all(run: RunFolder, pictures: Pictures) -> Iterator[Section]:
    summaries = _present(*pivot_tables(run), few_labels_table(run))
    results = results_table(run, "folded" if summaries and len(run.results.rows()) > _MANY_ROWS else "sortable")
    yield Section("run", "What was run", tables=(facts_table(run), *_present(classes_table(run))))
    yield Section("margins", "Margins", tables=_present(margins_table(run)))
    yield Section(
        "results",
        "Results",
        note="" if results else "Nothing was measured on held-out images yet.",
        tables=(*summaries, *_present(results, recall_table(run))),
    )
    yield Section("charts", "Charts", pictures=(*_present(draw_layers(run), draw_few_labels(run)), *draw_trajectory(run)))
    yield Section("curves", "Training curves", pictures=tuple(draw_curves(run)))
    yield Section("pictures", "Pictures", note=pictures.note, pictures=pictures.pictures)
    yield Section("stages", "Stages", tables=_present(stages_table(run)))
    yield Section("environment", "Environment", tables=_present(environment_table(run)))
    yield Section("recipe", "Recipe", source=run.recipe_text)


def _present(*found: T | None) -> tuple[T, ...]:
    return tuple(one for one in found if one is not None)
