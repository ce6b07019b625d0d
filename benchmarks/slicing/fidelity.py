"""The third part of a slice: figures of the paper that are missing, the most informative first, until the time is up.

    python -m slicing.fidelity --images images --runs runs --out results --until SECONDS --data "CIFAR-10 (JPEG)" compile=true

After each stage the records, the reference network and the runs, for the next slice to resume, are in the folder of the results.
"""

import argparse
import dataclasses
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from publish_weights import DATA
from reproduce import ROOT, command, load_recipes, tables_of
from reproduction.pack import export_runs, import_runs
from reproduction.records import Record, collect, load_records
from reproduction.runner import Reproduction
from reproduction.tables import Cell, by_interest
from slicing.layout import MAX_FILE, RECORDS, REFERENCE, RUNS, WEIGHTS
from slicing.rehearsal import write_small
from slicing.results import write_result
from sslkit.contract.errors import SslkitError
from sslkit.contract.events import Event, Notice, Observer, StageEnd, StageStart
from sslkit.recipe.bundled import bundled_weights
from sslkit.recipe.recipe import Recipe
from sslkit.run.artifacts import ARTIFACT, read_artifact
from sslkit.run.publication import TrainingData, publish_backbone


def main() -> int:
    """Returns 0: what does not fit is left for the next slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every recipe")
    parser.add_argument("--images", type=Path, required=True, help="train/<class>/* and test/<class>/*")
    parser.add_argument("--data", required=True, help="what the records say that the images are")
    parser.add_argument("--runs", type=Path, required=True, help="where the run folders are, or will be")
    parser.add_argument("--earlier", type=Path, help="an archive of runs to resume")
    parser.add_argument("--out", type=Path, required=True, help="for the results")
    parser.add_argument("--until", type=float, required=True, help="on the system's monotonic clock: stop then")
    parser.add_argument("--rehearse", action="store_true", help="with small copies of the recipes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    if arguments.earlier is not None:
        import_runs(arguments.earlier, arguments.runs)
    recipes = _recipes(arguments)
    known = load_records(ROOT / "docs" / "results")
    missing = [cell for cell in by_interest(tables_of(recipes, cpu=False)) if cell not in known]
    reproduction = Reproduction(recipes, arguments.runs, [_Log()])
    results = _Results(arguments, reproduction, missing)
    for name in dict.fromkeys(cell.recipe for cell in missing):  # of an earlier slice, whose last moments were lost
        results.take_over(name)
    left = [cell for cell in missing if cell not in results.records]
    try:
        for name in reproduction.run(left, lambda: time.monotonic() > arguments.until, on_error=_tell):
            results.take_over(name)
            results.export()
    finally:
        results.export()  # the checkpoint of the stage that was stopped
    print(f"{len(results.records)} figures measured, {len([cell for cell in missing if cell not in results.records])} missing")
    return 0


def _end(*_arguments: object) -> NoReturn:
    """Of SIGTERM: what is finished, and the last checkpoint, are still handed over."""
    raise SystemExit(1)


def _tell(stage: str, error: Exception) -> None:
    print(f"{stage} failed:", flush=True)
    traceback.print_exception(error, file=sys.stdout)


def _recipes(arguments: argparse.Namespace) -> dict[str, Recipe]:
    """At the paper's size, or small, on the images that are given. One checkpoint is enough to be carried away."""
    images = f'data={{ name = "image_folder", root = "{arguments.images}", image_size = 32 }}'
    overrides = [images, "keep_checkpoints=1", "checkpoint_minutes=1", *arguments.overrides]
    if not arguments.rehearse:
        return load_recipes("", overrides)
    with tempfile.TemporaryDirectory() as folder:
        for path in (ROOT / "recipes").glob("*.toml"):
            write_small(path, Path(folder))
        return load_recipes("", overrides, Path(folder))


class _Results:
    """What is handed back after each stage."""

    def __init__(self, arguments: argparse.Namespace, reproduction: Reproduction, cells: list[Cell]) -> None:
        self.records: dict[Cell, Record] = {}
        self._arguments = arguments
        self._reproduction = reproduction
        self._cells = cells

    def take_over(self, name: str) -> None:
        """Write the records of a recipe's finished stages, and the reference network with what is known of it."""
        arguments = self._arguments
        own = [cell for cell in self._cells if cell.recipe == name]
        repeats = command(name, [f'data={{ name = "image_folder", root = "{arguments.images}", image_size = 32 }}'])
        for record in collect(self._reproduction.folder(name), name, own, data=arguments.data, command=repeats):
            self.records.setdefault(record.cell, record)  # the first one knows the commit: what lies beside the run is of its last start
        write_result(arguments.out / RECORDS, {"records": [dataclasses.asdict(record) for record in self.records.values()]})
        if name == REFERENCE:
            self._publish(self._reproduction.folder(name) / "pretrain")

    def export(self) -> None:
        """Pack the runs for the next slice."""
        with tempfile.TemporaryDirectory() as folder:
            export_runs(self._arguments.runs, Path(folder) / RUNS, max_bytes=MAX_FILE)
            _hand_over(Path(folder) / RUNS, self._arguments.out)

    def _publish(self, stage: Path) -> None:
        if not (stage / ARTIFACT).exists() or read_artifact(stage)["status"] != "finished":
            return
        with tempfile.TemporaryDirectory() as folder:
            words = self._arguments.data
            data = DATA.get(words, TrainingData(words, f"{words}.", "Under which terms the images may be used is not known."))
            if (known := bundled_weights().get(REFERENCE)) is not None:  # the same weights, if an earlier slice trained them: it knows when
                shutil.copy(known, folder)
            try:
                publish_backbone(stage, Path(folder), name=REFERENCE, data=data)
            except SslkitError as error:  # figures that are still to be measured are worth more
                print(f"the reference network cannot be handed back: {error}", flush=True)
                return
            with tarfile.open(Path(folder) / WEIGHTS, "w") as archive:
                for path in sorted(Path(folder).glob(f"{REFERENCE}.*")):
                    archive.add(path, path.name)
            _hand_over(Path(folder) / WEIGHTS, self._arguments.out)


def _hand_over(path: Path, folder: Path) -> None:
    """Whole or not at all: the two may be on different disks."""
    partial = folder / ".partial"
    partial.write_bytes(path.read_bytes())
    partial.replace(folder / path.name)


class _Log(Observer):
    """A line when a stage begins and when it ends, and for each notice."""

    shows_notices = True

    def observe(self, event: Event) -> None:
        if isinstance(event, StageStart):
            print(f"{event.folder}", flush=True)
        elif isinstance(event, StageEnd):
            print(f"{event.stage}: {event.seconds:.1f} s, {dict(event.metrics)}", flush=True)
        elif isinstance(event, Notice):
            print(f"note: {event.message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
