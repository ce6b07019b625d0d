"""What a person sees: a progress bar on a terminal, plain lines elsewhere, tables at the end."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from typing_extensions import override

from sslkit.contract.errors import printable
from sslkit.contract.events import DataFound, Event, FitStart, HeldoutEnd, Notice, Observer, StageEnd, StageSkipped, StageStart, StepEnd
from sslkit.contract.progress import Count, watching
from sslkit.recipe.bundled import BundledRecipe
from sslkit.report.metrics import duration, number, signed
from sslkit.run.results import Results

if TYPE_CHECKING:  # at run time it would bring torch along, which listing recipes does not need
    from sslkit.audit.finding import Estimate
    from sslkit.audit.recipe_audit import AuditReport
    from sslkit.catalog.catalog import PluginInfo
    from sslkit.recipe.code_policy import RecipeCode
    from sslkit.report.comparison import Comparison

_PLAIN_SECONDS = 10.0
"""Without a terminal, a line of progress at most this often."""

_DOING = {"pretrain": "pretraining", "evaluate": "evaluating"}

_WIDTH = 120
"""Columns of plain output, where no terminal says how wide it is."""


def make_console(stream: Any) -> Console:
    """A console on a text stream."""
    console = Console(file=stream, highlight=False)
    return console if console.is_terminal else Console(file=stream, highlight=False, width=_WIDTH)


@contextmanager
def progress_on_stderr(*, quiet: bool = False) -> Iterator[tuple[Observer, ...]]:
    """Show what happens meanwhile unless ``quiet``, also while images are scanned and decoded; leave no bar behind.

    Yields:
        The observers to hand to a run.
    """
    if quiet:
        yield (_Silence(),)
        return
    display = ProgressDisplay(make_console(sys.stderr))
    try:
        with watching(display.count):
            yield (display,)
    finally:
        display.close()


class _Silence(Observer):
    """Keeps notices from becoming warnings: nobody wants to be told."""

    shows_notices = True

    @override
    def observe(self, event: Event) -> None:
        pass


class ProgressDisplay(Observer):
    """Shows a run as it goes: throughput, time left, and the latest loss and accuracies; in plain lines where there is no terminal."""

    shows_notices = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._counting = False
        self._counted = ""
        self._fit: FitStart | None = None
        self._latest = ""
        self._images = 0
        self._since = 0.0
        self._printed = 0.0

    @override
    def observe(self, event: Event) -> None:
        match event:
            case DataFound():
                print_found(self._console, event.splits, event.stage)
            case StageStart():
                self._say(f"[bold]{event.stage}[/bold]: {_DOING[event.kind]}")
            case StageSkipped():
                self._say(f"[bold]{event.stage}[/bold]: finished earlier{_suffix(event.metrics)}")
            case FitStart():
                self._begin(event)
            case StepEnd():
                self._step(event)
            case HeldoutEnd():
                self._say(f"  held out, epoch {event.epoch:g}{_suffix(event.metrics)}")
            case Notice():
                self._say(f"  [yellow]note:[/yellow] {safe(event.message)}")
            case StageEnd():
                self.close()
                self._say(f"[bold]{event.stage}[/bold]: done in {duration(event.seconds)}{_suffix(event.metrics)}")

    def count(self, count: Count) -> None:
        """Show how far work has come that is no training, such as scanning a folder, unless the bar of a training is there."""
        if self._bar is not None and not self._counting:
            return
        if self._console.is_terminal:
            self._draw(count)
        elif count.what != self._counted:
            self._counted, self._printed = count.what, time.monotonic()
        elif time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self._printed = time.monotonic()
            of = "" if count.total is None else f" of {count.total:,}"
            self._say(f"{safe(count.what)}: {count.done:,}{of}")

    def close(self) -> None:
        """Take the bar away; also after an error."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._counting = None, False

    def _draw(self, count: Count) -> None:
        if count.finished:
            self.close()
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
            self._bar, self._counting = Progress(*columns, console=self._console, transient=True), True
            self._bar.add_task(safe(count.what), total=count.total, completed=count.done)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=count.done)

    def _begin(self, event: FitStart) -> None:
        self.close()
        self._fit, self._latest, self._images = event, "", 0
        self._since = self._printed = time.monotonic()
        if event.step:
            self._say(f"  resumed at step {event.step:,} of {event.num_steps:,}")
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[speed]}", style="cyan"),
                TextColumn("{task.fields[latest]}"),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(_label(event), total=event.num_steps, completed=event.step, speed="", latest="")
            self._bar.start()

    def _step(self, event: StepEnd) -> None:
        self._images += event.num_images
        if event.metrics:
            shown = {name: value for name, value in event.metrics.items() if name not in ("lr", "images_per_second")}
            self._latest = _figures(shown)
        now = time.monotonic()
        speed = f"{self._images / max(now - self._since, 1e-9):,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=event.step, speed=speed, latest=self._latest)
        elif now - self._printed >= _PLAIN_SECONDS:
            assert self._fit is not None
            self._printed = now
            left = (now - self._since) / (event.step - self._fit.step) * (self._fit.num_steps - event.step)
            self._say(
                f"  {_label(self._fit)} step {event.step:,}/{self._fit.num_steps:,}, epoch {event.epoch:.1f}/{self._fit.num_epochs},"
                f" {speed}, {duration(left)} left  {self._latest}"
            )

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def print_found(console: Console, splits: Mapping[str, str], stage: str = "") -> None:
    """What a recipe's data holds, or a stage's own, a line for each split."""
    splits = {f"{stage} {split}".strip(): described for split, described in splits.items()}
    width = max(map(len, splits), default=0)
    for split, described in splits.items():
        console.print(f"{split:<{width}}  {safe(described)}", soft_wrap=True)


def print_results(console: Console, results: Results) -> None:
    """The results table: ours, the paper's where the recipe has it, and the margins."""
    if not results.rows():
        console.print("no results: nothing was measured on held-out images")
        return
    with_paper = any(row.paper is not None for row in results.rows())
    table = Table(Column("stage", overflow="fold"), Column("metric", overflow="fold"), title=results.recipe, title_justify="left")
    for name in ("ours", *(("paper", "difference") if with_paper else ())):
        table.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for row in results.rows():
        if previous and row.stage != previous:
            table.add_section()
        published = (number(row.paper), signed(row.difference)) if with_paper else ()
        table.add_row("" if row.stage == previous else row.stage, escape(row.metric), number(row.value), *published)
        previous = row.stage
    console.print(table)
    for margin in results.differences():
        console.print(
            f"{escape(margin.label)}: [bold]{signed(margin.difference)}[/bold]  ({escape(margin.first)} minus {escape(margin.second)})",
            soft_wrap=True,
        )
    for key in results.missing():
        console.print(f"[yellow]note:[/yellow] the paper's result {escape(key)} matches no metric of this run", soft_wrap=True)


def print_audit(console: Console, report: "AuditReport") -> None:
    """How far each task gets on images without content, and the two classes that are distinguished best."""
    table = Table(
        Column("stage, images", overflow="fold"),
        Column("chance", justify="right", no_wrap=True),
        Column("accuracy", justify="right", no_wrap=True),
        Column("worst pair", overflow="fold"),
        Column("accuracy", justify="right", no_wrap=True),
        Column("verdict", no_wrap=True),
        title=f"{report.recipe}: pretext accuracy on images without content",
        title_justify="left",
    )
    for stage, findings in report.findings.items():
        table.add_section()
        table.add_row(f"[bold]{escape(stage)}[/bold]")
        for finding in findings:
            pair = escape(" / ".join(finding.names(finding.worst)))
            figures = (f"{finding.accuracy.chance:.1f}", _estimate(finding.accuracy), pair, _estimate(finding.worst.accuracy))
            verdict = f"[red]{finding.verdict}[/red]" if finding.leaks else finding.verdict
            table.add_row(f"  {finding.source}", *figures, verdict)
    console.print(table)
    console.print("in percent, with 95 % intervals; a pair's chance is 50, and its interval allows for the number of pairs", soft_wrap=True)


def print_comparison(console: Console, comparison: "Comparison") -> None:
    """Several runs beside each other: the best in bold, differences to the first run in parentheses."""
    shown = comparison.table()
    table = Table(title="comparison", title_justify="left")
    for column in shown.columns:
        table.add_column(escape(column.name), justify="right" if column.numeric else "left", overflow="fold")
    for row in shown.rows:
        cells = [(escape(cell.text(column)), cell) for cell, column in zip(row, shown.columns, strict=True)]
        table.add_row(*(f"[bold]{text}[/bold]{cell.extra()}" if cell.strong else f"{text}{cell.extra()}" for text, cell in cells))
    if shown.rows:
        console.print(table)
    else:
        console.print("no results: none of these runs has measured anything yet")
    for sentence in comparison.unfinished():
        console.print(f"[yellow]note:[/yellow] {escape(sentence)}", soft_wrap=True)


def print_plugins(console: Console, plugins: Iterable["PluginInfo"]) -> None:
    """Which plugins there are, what they offer, and why broken ones are broken."""
    columns = [Column(name, overflow="fold") for name in ("plugin", "distribution", "version", "offers")]
    table = Table(*columns, title="plugins", title_justify="left")
    for plugin in plugins:
        offers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in plugin.offers.items() if names)
        shown = escape(offers) if plugin.state == "loaded" else plugin.state
        if plugin.error:
            shown = f"[red]broken:[/red] {safe(plugin.error)}"
        table.add_row(safe(plugin.name), safe(plugin.distribution), safe(plugin.version), shown)
    console.print(table)


def print_code(console: Console, code: "RecipeCode") -> None:
    """Which code that is not sslkit's own a recipe brings along; nothing where there is none."""
    for line in code.lines():
        console.print(safe(line), soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """What a user should look at."""
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {safe(note)}", soft_wrap=True)


def print_recipes(console: Console, recipes: Iterable[BundledRecipe]) -> None:
    """The bundled recipes, a line each."""
    table = Table(Column(no_wrap=True, style="bold"), Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    for recipe in recipes:
        table.add_row(recipe.name, escape(recipe.summary))
    console.print(table)


def _label(event: FitStart) -> str:
    return f"{event.stage} {event.part}".strip()


def _suffix(metrics: Mapping[str, float]) -> str:
    return f": {_figures(metrics)}" if metrics else ""


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{escape(name)} {number(value)}" for name, value in metrics.items())


def safe(text: str) -> str:
    """Text that is not ours, as rich takes it: names and reasons of plugins may hold markup and escape codes."""
    return escape(printable(text))


def _estimate(estimate: "Estimate") -> str:
    return f"{estimate.value:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"
