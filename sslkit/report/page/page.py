"""A report as a page and as Markdown: ``report.html`` is one self-contained file, with nothing fetched from anywhere."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from sslkit.report.comparison import Comparison
from sslkit.report.page.embedded import Embedded, embed
from sslkit.report.page.sections import Section
from sslkit.report.run_folder import RunFolder
from sslkit.report.tables.table import Table, escape_markdown

MAX_PICTURE_BYTES = 600_000
MAX_PICTURES_BYTES = 3_000_000
"""Of one picture made of pixels, and of all in a page: as text they take a third more, and the page stays below 5 MB."""

_WHOLE = 24
"""Letters of a name that is not broken into lines."""

_TEMPLATES = Path(__file__).parents[1] / "templates"


class RunReport(NamedTuple):
    """What a report says of one run.

    Attributes:
        label: distinguishes the run from the others.
        run: the run.
        sections: those that have something to show.
    """

    label: str
    run: RunFolder
    sections: Sequence[Section]


class Report(NamedTuple):
    """What a report says.

    Attributes:
        runs: in the order given.
        comparison: of several runs; None for one.
    """

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


class Shown(NamedTuple):
    """A section as the page shows it.

    Attributes:
        anchor: unique in the page.
        section: its words and tables.
        figures: its pictures.
    """

    anchor: str
    section: Section
    figures: Sequence[Embedded]


def render_page(report: Report) -> str:
    """The whole page."""
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=report.title,
            comparison=report.comparison,
            runs=[(run, _anchor(report, number), _shown(report, number)) for number, run in enumerate(report.runs, start=1)],
            style=Markup(style),
            script=Markup(script),
            # Whatever a recipe or a plugin wrote, the browser runs this one script and asks nobody for anything.
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        )
    )


def render_markdown(report: Report) -> str:
    """The words and tables of the page."""
    return _environment().get_template("report.md.jinja").render(title=report.title, comparison=report.comparison, runs=report.runs)


def _anchor(report: Report, number: int) -> str:
    return "" if report.comparison is None else f"run{number}-"


def _shown(report: Report, number: int) -> list[Shown]:
    pixels = sum(picture.raster for run in report.runs for section in run.sections for picture in section.pictures)
    limit = min(MAX_PICTURE_BYTES, MAX_PICTURES_BYTES // max(1, pixels))
    shown = []
    for section in report.runs[number - 1].sections:
        anchor = f"{_anchor(report, number)}{section.key}"
        figures = [embed(picture, prefix=f"{anchor}{i}", max_bytes=limit) for i, picture in enumerate(section.pictures)]
        shown.append(Shown(anchor, section, figures))
    return shown


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sslkit.report"),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> Markup:
    """Long keys may break after a slash, a comma or a dot, numbers may not."""
    safe = escape(text)
    return safe if len(text) <= _WHOLE else Markup(re.sub(r"(?<=/)|(?<=[.,])(?=[A-Za-z])", "<wbr>", safe))
