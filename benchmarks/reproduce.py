"""Reproduce the RotNet paper: measure the figures that are missing in docs/results, as many as fit, and rewrite docs/results.md.

python benchmarks/reproduce.py --list                      # what is missing
python benchmarks/reproduce.py --minutes 10                # the most informative first; again: go on where it stopped
python benchmarks/reproduce.py --cpu 'data={ name = "image_folder", root = "...", image_size = 32 }' --data "CIFAR-10 (JPEG)"
python benchmarks/reproduce.py --minutes 0                 # only take over what --runs holds, and rewrite the document
"""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproduction.document import CPU_SUFFIX, render
from reproduction.pack import export_runs, import_runs
from reproduction.records import Record, collect, load_records, save_records
from reproduction.runner import Reproduction
from reproduction.tables import Cell, Table, by_interest, paper_tables
from sslkit.cli.console import ProgressDisplay, make_console
from sslkit.contract.errors import SslkitError
from sslkit.recipe.recipe import Recipe, load_recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.storage.json_files import write_text

ROOT = Path(__file__).parents[1]
CPU_SCHEDULES = {"fifth": "by 5, 1 epoch", "half": "by 2, 1 epoch", "fifth_twice_as_long": "by 5, 2 epochs"}


def main() -> int:
    """Returns the exit code: 2 for a user's mistake."""
    arguments = _arguments()
    try:
        return _reproduce(arguments)
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of every recipe, for example the data")
    parser.add_argument("--cpu", action="store_true", help="the CPU variants of the recipes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many; 0: measure nothing")
    parser.add_argument("--only", action="append", help="a recipe, without _cpu; may be given several times")
    parser.add_argument("--data", default="CIFAR-10", help="what the records say the data is")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"), help="where the run folders are")
    parser.add_argument("--results", type=Path, default=ROOT / "docs", help="where results.md and results/ are")
    parser.add_argument("--list", action="store_true", help="print the cells that are missing, and stop")
    parser.add_argument("--import", dest="archive_in", type=Path, metavar="FILE", help="first unpack run folders")
    parser.add_argument("--export", dest="archive_out", type=Path, metavar="FILE", help="at the end pack the run folders")
    return parser.parse_args()


def _reproduce(arguments: argparse.Namespace) -> int:
    suffix = CPU_SUFFIX if arguments.cpu else ""
    recipes = load_recipes(suffix, arguments.overrides)
    cells = [cell for cell in by_interest(tables_of(recipes, cpu=arguments.cpu)) if not arguments.only or cell.recipe in arguments.only]
    folder = arguments.results / "results"
    records = load_records(folder)
    missing = [cell for cell in cells if cell._replace(recipe=cell.recipe + suffix) not in records]
    if arguments.list:
        print("\n".join(f"{cell.recipe}{suffix} {cell.metric}" for cell in missing))
        return 0
    if arguments.archive_in:
        import_runs(arguments.archive_in, arguments.runs)
    display = ProgressDisplay(make_console(sys.stderr))
    reproduction = Reproduction(recipes, arguments.runs, [display])
    deadline = time.monotonic() + 60 * arguments.minutes

    def take_over(name: str) -> None:
        own = [cell for cell in cells if cell.recipe == name]
        for record in collect(
            reproduction.folder(name), name + suffix, own, data=arguments.data, command=command(name + suffix, arguments.overrides)
        ):
            records[record.cell] = record
        save_records(folder, records.values())

    for name in dict.fromkeys(cell.recipe for cell in cells):
        take_over(name)
    if arguments.minutes > 0:
        missing = [cell for cell in missing if cell._replace(recipe=cell.recipe + suffix) not in records]
        for name in reproduction.run(missing, lambda: time.monotonic() > deadline):
            take_over(name)
    display.close()
    write_text(arguments.results / "results.md", document(records))
    if arguments.archive_out:
        print(f"{arguments.archive_out}: {export_runs(arguments.runs, arguments.archive_out) / 2**20:.1f} MiB")
    left = [cell for cell in cells if cell._replace(recipe=cell.recipe + suffix) not in records]
    print(f"{len(cells) - len(left)} of {len(cells)} figures measured, {len(left)} missing")
    return 0


def load_recipes(suffix: str, overrides: Sequence[str], folder: Path = ROOT / "recipes") -> dict[str, Recipe]:
    """The recipes by the name that cells know them by.

    Args:
        suffix: of the recipes' files.
        overrides: of every recipe.
        folder: where the files are.

    Raises:
        RecipeError: an override does not fit.
    """
    names = dict.fromkeys(cell.recipe for table in paper_tables(()) for cell in table.cells())
    names["rotnet_trajectory"] = None
    return {name: load_recipe(folder / f"{name}{suffix}.toml", overrides) for name in names}


def tables_of(recipes: Mapping[str, Recipe], *, cpu: bool) -> list[Table]:
    """Every table and figure of the paper, with the snapshots that the recipes keep."""
    pretraining = recipes["rotnet_trajectory"].stage("pretrain")
    assert isinstance(pretraining, PretrainStage)
    return paper_tables(pretraining.snapshot_epochs, CPU_SCHEDULES if cpu else None)


def document(records: Mapping[Cell, Record]) -> str:
    """The text of ``docs/results.md``."""
    full, cpu = load_recipes("", []), load_recipes(CPU_SUFFIX, [])
    paper = {Cell(name, metric): value for name, recipe in full.items() for metric, value in recipe.paper.items()}
    return render(records, tables_of(full, cpu=False), tables_of(cpu, cpu=True), paper)


def command(recipe: str, overrides: Sequence[str]) -> str:
    """What repeats the run elsewhere: folders of this machine are left open."""
    shown = [re.sub(r'root = "[^"]*"', 'root = "<folder>"', override) for override in overrides]
    return " ".join(["sslkit", "run", f"recipes/{recipe}.toml", *(f"'{override}'" for override in shown)])


if __name__ == "__main__":
    sys.exit(main())
