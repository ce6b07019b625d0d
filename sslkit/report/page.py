"""A report: sections of text, tables and pictures, written as one self-contained page, and its tables as Markdown and CSV too."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from sslkit.contract.errors import ArtifactError, StorageError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.report.comparison import Comparison, PathLike, compare, distinguishing_labels, read_runs
from sslkit.report.feature_charts import alarms_note, draw_features
from sslkit.report.picture import Picture
from sslkit.report.pictures.all import Pictures, run_pictures, saved_run_pictures
from sslkit.report.run_charts import draw_curves, draw_few_labels, draw_layers, draw_trajectory
from sslkit.report.run_folder import RunFolder, read_run
from sslkit.report.run_tables import (
    classes_table,
    environment_table,
    facts_table,
    few_labels_table,
    margins_table,
    pivot_tables,
    recall_table,
    results_table,
    stages_table,
)
from sslkit.report.table import Table, escape_markdown
from sslkit.storage.atomic import refuse_links
from sslkit.storage.json_files import write_text

T = TypeVar("T")

MAX_PICTURE_BYTES = 600_000
MAX_PICTURES_BYTES = 3_000_000
"""Of one raster picture, and of all in a page: as base64 they take a third more, and the page stays below 5 MB."""


class Section(NamedTuple):
    """A part of a report. Its key, unique in a run's report, is its anchor; pictures come below tables, then a text file, folded."""

    key: str
    title: str
    note: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    source: str = ""


class RunReport(NamedTuple):
    """The sections of one run, with a label that distinguishes it from the others."""

    label: str
    run: RunFolder
    sections: Sequence[Section]


class Report(NamedTuple):
    """Each run by itself, and where there are several, their comparison."""

    runs: Sequence[RunReport]
    comparison: Comparison | None = None

    @property
    def title(self) -> str:
        """Its heading."""
        return self.runs[0].label if self.comparison is None else f"Comparison of {len(self.runs)} runs"

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Every table, and a name for its file that is unique in the report."""
        if self.comparison is not None:
            yield "comparison", self.comparison.table()
        for number, run in enumerate(self.runs, start=1):
            for section in run.sections:
                for table in section.tables:
                    yield table.key if self.comparison is None else f"run{number}_{table.key}", table


class ReportFiles(NamedTuple):
    """The files of a report: ``report.html``, and its tables as ``report.md`` and ``tables/<name>.csv``; and why pictures are missing, if
    any are.
    """

    page: Path
    markdown: Path
    tables: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def write_report(folders: Sequence[PathLike], output: PathLike | None = None, *, allow_code: bool = False) -> ReportFiles:
    """Write the report of one run, or of several with a comparison first.

    Args:
        folders: the runs'.
        output: where to write; None: the run's folder, or ``reports/<run>+<run>`` for several.
        allow_code: import classes that a recipe names as ``module:Class``, to draw the pictures of their networks. Only for runs you
            trust.

    Raises:
        ArtifactError: a folder is not a run's, is damaged or given twice, or the report cannot be written.
    """
    runs = read_runs(folders)
    pictures = [saved_run_pictures(run, allow_code=allow_code) for run in runs]
    report = make_report(runs, pictures)
    if output is None:
        names = [run.folder.resolve().name for run in runs]
        name = "+".join(names)
        short = name if len(name) <= 80 else f"{names[0]}+{len(names) - 1}-more"
        output = Path("reports", short) if report.comparison else report.runs[0].run.folder
    notes = tuple(f"{run.folder}: {own.note}" for run, own in zip(runs, pictures, strict=True) if own.note)
    return _write(report, Path(output))._replace(notes=notes)


def write_run_report(folder: Path, recipe: Recipe, data: OpenedDataset) -> ReportFiles:
    """Write the report of a run whose recipe and data are loaded, into its folder."""
    return _write(make_report([read_run(folder)], [run_pictures(folder, recipe, data)]), folder)


def make_report(runs: Sequence[RunFolder], pictures: Sequence[Pictures]) -> Report:
    """Make a report of runs and their pictures."""
    labels = distinguishing_labels(runs)
    reports = [RunReport(label, run, run_sections(run, own)) for label, run, own in zip(labels, runs, pictures, strict=True)]
    return Report(reports, compare(runs) if len(runs) > 1 else None)


def run_sections(run: RunFolder, pictures: Pictures) -> list[Section]:
    """The sections of one run that have something to show."""
    summaries = _present(*pivot_tables(run), few_labels_table(run))
    # A long list of metrics is folded where other tables summarize most of it.
    results = results_table(run, "folded" if summaries and len(run.results.rows()) > 30 else "sortable")
    not_yet = "" if results else "Nothing was measured on held-out images yet."
    sections = [
        Section("run", "What was run", tables=_present(facts_table(run), classes_table(run))),
        Section("collapse", "Collapse", note=alarms_note(run)),
        Section("margins", "Margins", tables=_present(margins_table(run))),
        Section("results", "Results", note=not_yet, tables=_present(*summaries, results, recall_table(run))),
        Section("charts", "Charts", pictures=_present(draw_layers(run), draw_few_labels(run), *draw_trajectory(run))),
        Section("curves", "Training curves", pictures=(*draw_features(run), *draw_curves(run))),
        Section("pictures", "Pictures", note=pictures.note, pictures=pictures.pictures),
        Section("stages", "Stages", tables=_present(stages_table(run))),
        Section("environment", "Environment", tables=_present(environment_table(run))),
        Section("recipe", "Recipe", source=run.recipe_text),
    ]
    return [section for section in sections if section.tables or section.pictures or section.source or section.note]


def _present(*found: T | None) -> tuple[T, ...]:
    return tuple(one for one in found if one is not None)


def render_page(report: Report) -> str:
    """The whole page."""
    script = _TEMPLATES.get_template("page.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pixels = sum(picture.raster for run in report.runs for section in run.sections for picture in section.pictures)
    return _TEMPLATES.get_template("page.html.jinja").render(
        report=report,
        script=Markup(script),
        # Whatever a recipe or a plugin wrote, the browser runs this one script and loads nothing.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        max_bytes=min(MAX_PICTURE_BYTES, MAX_PICTURES_BYTES // max(1, pixels)),
    )


def render_markdown(report: Report) -> str:
    """The text and tables of the page."""
    return _TEMPLATES.get_template("report.md.jinja").render(report=report)


def _breakable(text: str) -> Markup:
    """Long keys may break after a slash, a comma or a dot; numbers may not."""
    safe = escape(text)
    return safe if len(text) <= 24 else Markup(re.sub(r"(?<=/)|(?<=[.,])(?=[A-Za-z])", "<wbr>", safe))


_TEMPLATES = Environment(
    loader=PackageLoader("sslkit.report"),
    autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"md": escape_markdown, "breakable": _breakable}


def _write(report: Report, output: Path) -> ReportFiles:
    page, markdown = output / "report.html", output / "report.md"
    tables = {output / "tables" / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.csv": table for name, table in report.tables()}
    refuse_links(output / "tables")
    try:
        for path, table in tables.items():
            write_text(path, table.csv())
        write_text(markdown, render_markdown(report))
        write_text(page, render_page(report))
    except StorageError as error:  # the user chose the folder
        fix = "choose another folder with --output"
        raise ArtifactError(f"{output}: the report cannot be written ({error.__cause__})", fix=fix) from error
    return ReportFiles(page, markdown, tuple(tables))
