"""``sslkit data stats``: what is in the data of a recipe, and the table to paste into it."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.cli.console import make_console, print_code, print_notes, progress_on_stderr, safe
from sslkit.contract.errors import RecipeError
from sslkit.data.statistics import DataStatistics, Repeated, SplitStatistics, measure_data, paste
from sslkit.recipe.bundled import bundled_recipes, find_recipe
from sslkit.recipe.code_policy import code_of, is_in_run, refuse_code
from sslkit.recipe.datasets import Datasets, data_table
from sslkit.recipe.toml import apply_override, read_recipe

_MOST = 10
"""Classes, sizes and broken files that are listed by name; ``--json`` has all of them."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The statistics, and the ``[data]`` table with them."""

    statistics: DataStatistics
    table: dict[str, Any]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.statistics.as_json(), "data": self.table, "notes": self.notes}


def measure(what: str, settings: Iterable[str] = (), *, allow_code: bool = False, quiet: bool = False) -> Measured:
    """Measure the data of a recipe, of a TOML file with a table ``[data]`` alone, of a dataset by its name, or of a folder of images.

    Args:
        what: a recipe, a file, a dataset or a folder.
        settings: ``data.key=value``: other options of the data.
        allow_code: import the classes that a recipe in a run's folder names as ``package.module:Class``; any other may name them.
        quiet: show no progress.

    Raises:
        SslkitError: there is no such thing, an option is wrong, or there are no images.
    """
    catalog = load_catalog(allow_code=allow_code)
    table, catalog = _read(what, catalog)
    for setting in settings:
        apply_override(table, setting)
    own = table.get("data")
    if own is None:
        raise RecipeError(f"{what}: data: missing; required", fix="write a table [data]")
    own = {"name": own} if isinstance(own, str) else own
    refuse_code([{"data": own}], catalog)
    seed = table.get("seed", 0)
    data = Datasets(catalog).build(own, "data", seed if isinstance(seed, int) else 0)
    if not quiet:
        print_code(make_console(sys.stderr), code_of([{"data": own}], catalog))
    with progress_on_stderr(quiet=quiet):
        statistics = measure_data(data)
    pasted, notes = paste(own, data, statistics)
    return Measured(statistics=statistics, table=pasted, notes=notes)


def _read(what: str, catalog: Catalog) -> tuple[dict[str, Any], Catalog]:
    """A table that holds ``data``, and the catalog that may look it up."""
    datasets, recipes = catalog.names("datasets"), {recipe.name for recipe in bundled_recipes()}
    if what not in recipes and (what in datasets or ":" in what):
        return {"data": {"name": what}}, replace(catalog, allow_code=True)
    if what not in recipes and Path(what).is_dir():
        return {"data": data_table(what)}, catalog
    path = find_recipe(what)
    table, files = read_recipe(path)
    trusted = catalog.allow_code or not any(map(is_in_run, files))
    return table, replace(catalog, allow_code=trusted)


def print_measured(measured: Measured, out: Any) -> None:
    """Tables of what was found, then the TOML to paste; what a user should look at goes to stderr."""
    found, console, notes = measured.statistics, make_console(out), make_console(sys.stderr)
    _print_splits(console, found)
    _print_channels(console, found)
    train, pretrain = found.splits.get("train"), found.splits.get("pretrain")
    one_set = train is not None and pretrain is not None and (train.broken, train.repeated) == (pretrain.broken, pretrain.repeated)
    for name, split in found.splits.items():
        if one_set and name == "train":  # the same images
            continue
        for file, reason in [*split.broken.items()][:_MOST]:
            notes.print(f"[yellow]broken[/yellow] in {name}: {safe(file)}: {safe(reason)}", soft_wrap=True)
        if len(split.broken) > _MOST:
            notes.print(f"and {len(split.broken) - _MOST:,} more; --json lists all", soft_wrap=True)
        _print_repeated(notes, f"{name} images that an earlier one equals", split.repeated)
    for name, repeated in found.shared.items():
        _print_repeated(notes, f"test images that are {name} images too", repeated)
    print_notes(notes, measured.notes)
    console.print(escape(_toml({"data": measured.table})), soft_wrap=True, end="")


def _toml(table: dict[str, Any]) -> str:
    """TOML with arrays of numbers in one line."""
    return re.sub(
        r"\[\n(?: +[-+.\de]+,\n)+\]", lambda array: " ".join(array[0].split()).replace("[ ", "[").replace(", ]", "]"), tomli_w.dumps(table)
    )


def _print_repeated(notes: Console, what: str, repeated: Repeated) -> None:
    if repeated.num_images:
        example = " = ".join(safe(name) for name in repeated.examples[0])
        notes.print(f"[yellow]duplicates:[/yellow] {repeated.num_images:,} {what}, for example {example}", soft_wrap=True)


def _print_splits(console: Console, found: DataStatistics) -> None:
    columns = [
        Column(name, overflow="fold") for name in ("split", "images", "classes", "size, height x width", "pixels", "broken", "repeated")
    ]
    table = Table(*columns)
    for name, split in found.splits.items():
        table.add_row(
            name,
            f"{split.num_images:,}",
            safe(_classes(split)) or "none",
            _sizes(split),
            ", ".join(split.dtypes),
            f"{len(split.broken):,}",
            f"{split.repeated.num_images:,}",
        )
    console.print(table)


def _print_channels(console: Console, found: DataStatistics) -> None:
    split = next(split for split in found.splits.values() if split.mean)
    numbers = ("channel", "mean", "std", "smallest", "largest")
    table = Table(*(Column(name, justify="right") for name in numbers))
    for index, row in enumerate(zip(split.mean, split.std, split.low, split.high, strict=True)):
        table.add_row(str(index), *(f"{value:.6g}" for value in row))
    console.print(table)


def _classes(split: SplitStatistics) -> str:
    """``4: cat 12, dog 3 ...``."""
    shown = [f"{name} {count:,}" for name, count in [*split.classes.items()][:_MOST]]
    more = f", and {len(split.classes) - _MOST:,} more" if len(split.classes) > _MOST else ""
    return f"{len(split.classes):,}: {', '.join(shown)}{more}" if shown else ""


def _sizes(split: SplitStatistics) -> str:
    """One size, or the range of them."""
    if not split.sizes:
        return ""
    heights, widths = zip(*split.sizes, strict=True)
    if len(split.sizes) == 1:
        return f"{heights[0]} x {widths[0]}"
    return f"{min(heights)} to {max(heights)} x {min(widths)} to {max(widths)}"
