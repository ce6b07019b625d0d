"""The command line: parse, one public call, print. Imports wait inside the commands, so that ``--help`` needs no torch."""

import json
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslkit.cli.output import OutputError, command_output, quiet_stream
from sslkit.contract.errors import OptionError, RunInterruptedError, SslkitError
from sslkit.training.stopping import Terminated, name_of, terminable

if TYPE_CHECKING:
    from sslkit.recipe.recipe import Recipe

app = typer.Typer(
    help="Self-supervised learning from recipes: pretrain, probe, fine-tune, few labels.", no_args_is_help=True, add_completion=False
)
recipes_app = typer.Typer(help="List the bundled recipes, or copy a recipe, bundled or a file.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app := typer.Typer(help="Look at data before anything is trained.", no_args_is_help=True), name="data")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a bundled recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE ...", help="Overrides, for example stages.pretrain.epochs=1")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Import the classes that a run's folder names as module:Class. Only for runs you trust.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps, for every stage, whatever the recipe says.")]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/<name>.")] = None,
    device: Device = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what earlier runs of these stages left in the folder.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Continue a finished or diverged pretraining with more epochs; later stages run again.")
    ] = False,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop after this many minutes, with a checkpoint and exit code 75; run again to resume."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Run a recipe's stages in order: skip finished ones, resume an interrupted one."""
    again = shlex.join(["sslkit", *(argument for argument in sys.argv[1:] if argument != "--fresh")])
    with _errors(f"; resume with: {again}", quiet=quiet) as out:
        if fresh and extend:
            raise OptionError("--extend", "cannot be combined with --fresh", fix="choose one")
        from sslkit.cli.console import make_console, print_results, progress_on_stderr
        from sslkit.report.run import run_recipe

        loaded = _load(recipe, overrides, device=device, allow_code=allow_code, quiet=quiet)
        with progress_on_stderr(quiet=quiet) as observers:
            result = run_recipe(loaded, output=output, fresh=fresh, extend=extend, max_minutes=max_minutes, observers=observers)
        if not quiet:
            out.otherwise = f"the run is finished, and its results are in {result.folder}"
            console = make_console(out)
            print_results(console, result.results)
            console.print(f"run folder: {result.folder}", soft_wrap=True)


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None, device: Device = None, allow_code: AllowCode = False) -> None:
    """Validate a recipe without computing anything, downloading nothing."""
    with _errors() as out:
        from sslkit.cli.console import make_console, print_found, print_notes, progress_on_stderr
        from sslkit.data.cache import OpenedDataset
        from sslkit.run.networks import open_data, reads
        from sslkit.run.preflight import check_recipe

        loaded = _load(recipe, overrides, device=device, allow_code=allow_code)
        loaded = open_data(loaded)
        with progress_on_stderr():
            unchecked = check_recipe(loaded)
        for data, (first, *_) in reads(loaded, OpenedDataset.of(loaded.data)):
            print_found(make_console(out), data.describe(), first.key if first.data else "")
            print_notes(make_console(sys.stderr), data.new_notes())
        number = len(loaded.stages)
        typer.echo(f"{recipe}: fine, {number} stage{'s' * (number > 1)}: {', '.join(stage.key for stage in loaded.stages)}", file=out)
        for note in loaded.notes:
            typer.echo(f"note: {note}", file=out)
        if unchecked:
            typer.echo(f"not checked: {unchecked}", file=out)


@app.command()
def audit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[list[str] | None, typer.Option(help="A pretraining stage; may be repeated. By default all.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="What the images are made of; may be repeated. By default all.")] = None,
    num_images: Annotated[int | None, typer.Option(help="Training images per source; half as many are held out.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    device: Device = None,
    output: Annotated[Path | None, typer.Option(help="Write everything, every pair of classes too, to this JSON file.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Try to solve a recipe's pretext tasks on images without content: what works there is a shortcut."""
    with _errors(quiet=quiet) as out:
        from sslkit.audit.recipe_audit import audit_recipe
        from sslkit.audit.task_audit import AuditOptions
        from sslkit.cli.console import make_console, print_audit, progress_on_stderr

        given = {"sources": tuple(source or ()), "num_images": num_images, "epochs": epochs, "seed": seed}
        options = AuditOptions(**{name: value for name, value in given.items() if value not in (None, ())})
        loaded = _load(recipe, overrides, device=device, allow_code=allow_code, quiet=quiet)
        with progress_on_stderr(quiet=quiet) as observers:
            report = audit_recipe(loaded, stages=stage or (), options=options, observers=observers)
        if as_json:
            _print_json(report.as_json(), out)
        else:
            print_audit(make_console(out), report)
        if output is not None:
            report.write(output)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="The folders of one run or more.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; by default the run's folder, and reports/<run>+<run> for several.")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Write report.html, one self-contained page, and its tables as Markdown and CSV."""
    with _errors() as out:
        from sslkit.cli.console import make_console, print_notes
        from sslkit.report.page import write_report

        files = write_report(runs, output, allow_code=allow_code)
        print_notes(make_console(sys.stderr), files.notes)
        for path in (files.page, files.markdown, *files.tables):
            typer.echo(path, file=out)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="The folders of two runs or more.")],
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Put the metrics of runs beside each other, with differences to the first."""
    with _errors() as out:
        if as_json and as_markdown:
            raise OptionError("--markdown", "cannot be combined with --json", fix="choose one")
        from sslkit.cli.console import make_console, print_comparison
        from sslkit.report.comparison import compare_runs

        comparison = compare_runs(runs)
        if as_json:
            _print_json(comparison.as_json(), out)
        elif as_markdown:
            typer.echo(comparison.table().markdown(), file=out)
        else:
            print_comparison(make_console(out), comparison)


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="TASK_OR_RECIPE", help="A pretext task, package.module:Class, or a recipe; with --view also data.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE ...", help="Options of the task, or overrides of the recipe.")
    ] = None,
    view: Annotated[
        str | None, typer.Option(help="Draw this view of the images of a recipe, a folder or a dataset: a preset, or a table in TOML.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The PNG file; by default runs/<name>-views.png.")] = None,
    num_images: Annotated[int, typer.Option(help="How many images to show.")] = 6,
    data: Annotated[
        str | None, typer.Option(help="For a task: a folder of images, or the name of a dataset; by default the bundled digits.")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Draw the views that a task or an evaluator makes of a few images: what the network is fed."""
    with _errors() as out:
        from sslkit.cli.preview import write_preview

        options = {"view": view, "data": data, "num_images": num_images, "output": output, "allow_code": allow_code}
        typer.echo(write_preview(what, settings or (), **options), file=out)


@recipes_app.callback()
def recipes(context: typer.Context) -> None:
    """List the bundled recipes, a line each."""
    if context.invoked_subcommand is not None:
        return
    with _errors() as out:
        from sslkit.cli.console import make_console, print_recipes
        from sslkit.recipe.bundled import bundled_recipes

        print_recipes(make_console(out), bundled_recipes())


@recipes_app.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="The name of a bundled recipe, or a recipe's file.")],
    target: Annotated[Path, typer.Argument(help="A folder, or the new file.")] = Path(),
) -> None:
    """Copy a recipe, with all that it extends, to a file of your own; paths of weights in it stay valid."""
    with _errors() as out:
        from sslkit.recipe.toml import copy_recipe

        typer.echo(copy_recipe(name, target), file=out)


@data_app.command("stats")
def stats(
    what: Annotated[str, typer.Argument(metavar="RECIPE_OR_DATA", help="A recipe, a TOML file with data alone, a dataset, or a folder.")],
    settings: Overrides = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure mean and std, sizes, classes, broken files and duplicates, and print the table of data to paste into a recipe."""
    with _errors(quiet=quiet) as out:
        from sslkit.cli.data_stats import measure, print_measured

        measured = measure(what, settings or (), allow_code=allow_code, quiet=quiet)
        _print_json(measured.as_json(), out) if as_json else print_measured(measured, out)


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List the installed plugins, what they offer, and what is wrong with broken ones."""
    with _errors() as out:
        from sslkit.catalog.discovery import load_catalog
        from sslkit.cli.console import make_console, print_notes, print_plugins

        catalog = load_catalog()
        if as_json:
            _print_json([{**asdict(info), "state": info.state} for info in catalog.plugins], out)
        else:
            print_plugins(make_console(out), catalog.plugins)
        print_notes(make_console(sys.stderr), catalog.notes)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"sslkit {version('sslkit')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Self-supervised learning from recipes: pretrain, probe, fine-tune, few labels."""


def main() -> None:
    """The console script."""
    app()


def _load(recipe: str, overrides: list[str] | None, *, device: str | None, allow_code: bool, quiet: bool = False) -> "Recipe":
    """A recipe that was named by the person who runs it, so that it may bring code along; which, they are told."""
    from sslkit.cli.console import make_console, print_code
    from sslkit.recipe.bundled import find_recipe
    from sslkit.recipe.recipe import load_recipe

    loaded = load_recipe(find_recipe(recipe), overrides or (), device=device, allow_code=allow_code or None)
    if not quiet:
        print_code(make_console(sys.stderr), loaded.code)
    return loaded


def _print_json(value: object, out: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False), file=out)


@contextmanager
def _errors(after: str = "", *, quiet: bool = False) -> Iterator[Any]:
    """The command's stdout. Errors are one line on stderr, with ``after`` behind those of a run that can be resumed, and an exit code; a
    traceback would only be for a bug of ours.
    """
    with redirect_stderr(quiet_stream(sys.stderr)):
        try:
            with terminable(), command_output(quiet=quiet) as out:  # a run answers signals itself once its stages begin
                yield out
        except SslkitError as error:
            stopped = isinstance(error, RunInterruptedError)
            if not (isinstance(error, OutputError) and error.closed):
                typer.echo(f"{error}{after}" if stopped else f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Terminated) else signal.SIGINT
            typer.echo((name_of(number) if isinstance(error, Terminated) else "interrupted") + after, err=True)
            raise typer.Exit(RunInterruptedError.SIGNALLED + number) from None
        except (Exception, SystemExit) as error:
            _explain(error, after)
            raise typer.Exit(1) from None


def _explain(error: BaseException, after: str) -> None:
    """An error that nobody raised on purpose: whose code it was, and what its author needs to mend it."""
    from sslkit.contract.blame import blame_of, blaming

    with suppress(type(error)), blaming():
        raise error
    blame = blame_of(error)
    assert blame is not None
    if blame.culprit:
        typer.echo(f"error: {blame}{after}", err=True)
        typer.echo(blame.traceback(), err=True, nl=False)
        return
    typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    typer.echo(f"error: {blame}; this is an error of sslkit itself: please report it with the lines above", err=True)
