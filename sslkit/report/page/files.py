"""The files of a report: the page, and its tables as Markdown and CSV."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sslkit.contract.errors import ArtifactError, StorageError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.report.comparison import PathLike, compare, distinguishing_labels, read_runs
from sslkit.report.page.page import Report, RunReport, render_markdown, render_page
from sslkit.report.page.sections import run_sections
from sslkit.report.pictures.all import Pictures, run_pictures, saved_run_pictures
from sslkit.report.run_folder import RunFolder, read_run
from sslkit.storage.atomic import refuse_links
from sslkit.storage.json_files import write_text

_LONGEST_NAME = 80
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class ReportFiles(NamedTuple):
    """Where a report lies.

    Attributes:
        page: ``report.html``.
        markdown: ``report.md``, the same tables.
        tables: the same again, ``tables/<name>.csv``.
    """

    page: Path
    markdown: Path
    tables: tuple[Path, ...]


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
    report = _report(runs, [saved_run_pictures(run, allow_code=allow_code) for run in runs])
    return _write(report, _default_output(runs) if output is None else Path(output))


def write_run_report(folder: Path, recipe: Recipe, data: OpenedDataset) -> ReportFiles:
    """Write the report of a run whose recipe and data are at hand, into its folder."""
    return _write(_report([read_run(folder)], [run_pictures(folder, recipe, data)]), folder)


def _report(runs: Sequence[RunFolder], pictures: Sequence[Pictures]) -> Report:
    reports = [
        RunReport(label, run, run_sections(run, own)) for label, run, own in zip(distinguishing_labels(runs), runs, pictures, strict=True)
    ]
    return Report(reports, compare(runs) if len(runs) > 1 else None)


def _default_output(runs: Sequence[RunFolder]) -> Path:
    if len(runs) == 1:
        return runs[0].folder
    names = [run.folder.resolve().name for run in runs]
    name = "+".join(names)
    return Path("reports") / (name if len(name) <= _LONGEST_NAME else f"{names[0]}+{len(names) - 1}-more")


def _write(report: Report, output: Path) -> ReportFiles:
    page, markdown = output / "report.html", output / "report.md"
    tables = {output / "tables" / f"{_NO_FILE_NAME.sub('_', name)}.csv": table for name, table in report.tables()}
    refuse_links(output / "tables")
    try:
        for path, table in tables.items():
            write_text(path, table.csv())
        write_text(markdown, render_markdown(report))
        write_text(page, render_page(report))
    except StorageError as error:  # the user chose the folder
        raise ArtifactError(
            f"{output}: the report cannot be written ({error.__cause__})", fix="choose another folder with --output"
        ) from error
    return ReportFiles(page, markdown, tuple(tables))
