"""The folder of a run: one process at a time in it, nobody else's files touched, and a stage's results on disk as soon as there are any."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath

import tomli_w
from typing_extensions import override

from sslkit.catalog.observers import Observers
from sslkit.contract.errors import ArtifactError, StorageError
from sslkit.contract.events import CheckpointSaved, Event, Notice, Observer, Record, StageEnd, StageStart
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import Stage
from sslkit.recipe.toml import read_table
from sslkit.run.artifacts import ARTIFACT, BackboneRecord
from sslkit.run.environment import Provenance
from sslkit.run.results import Results
from sslkit.run.stage_folder import StageResult
from sslkit.run.stage_identity import Found
from sslkit.run.weights_file import hash_of
from sslkit.storage.atomic import make_folder, refuse_links, remove_unfinished, writing
from sslkit.storage.folder_lock import LOCK, RunLock
from sslkit.storage.json_files import write_json, write_text

_OTHER_FOLDER = "choose another folder with --output"


class RunFolder:
    """Where a run's stages lie, and what is known of them.

    Attributes:
        path: of the folder.
        observers: of the whole run: those that are given, and the recipe's own.
        results: metrics by stage, as far as stages are finished.
    """

    def __init__(self, path: Path, recipe: Recipe, observers: tuple[Observer, ...]) -> None:
        self.path = path
        self.observers = Observers((_Keeper(self), *recipe.observers, *observers))
        self.results = Results(recipe.name, dict(recipe.paper), dict(recipe.margins), pending=[stage.key for stage in recipe.stages])
        self._recipe = recipe
        self._fingerprints: dict[str, str] = {}
        self._extended: set[str | None] = set()
        self._lock = RunLock(path)

    @contextmanager
    def opened(self, *, fresh: bool) -> Iterator[None]:
        """Make the folder, and keep other processes out of it for the time of the block; if ``fresh``, remove what earlier starts left.

        Raises:
            ArtifactError: it holds a run of a different recipe, or another process runs in it.
        """
        self._make()
        written, name = self.path / "recipe.toml", self._recipe.name
        with self._lock.held(lambda message: self.notify("run", message)):
            # Stages that do not collide would otherwise mix, and results.json would be the new recipe's alone.
            if written.is_file() and (owner := read_table(written).get("name")) != name:
                raise ArtifactError(f"{self.path}: holds a run of a different recipe (name: {owner!r} -> {name!r})", fix=_OTHER_FOLDER)
            # The run's folder may be a link; one in it could send what is written, or removed, anywhere.
            for key in ("tables", "variants", *(stage.key for stage in self._recipe.stages)):
                for part in (PurePath(key), *PurePath(key).parents[:-1]):
                    refuse_links(self.path / part)
            if fresh:
                for stage in self._recipe.stages:
                    _remove_stage(self.path / stage.key)
            remove_unfinished(self.path)
            if not written.exists():
                self.write_recipe()
            try:
                yield
            except StorageError:
                self.check()  # the better reason, where there is nothing left to write to
                raise

    def check(self) -> None:
        """Make sure that the folder is still the one that was opened.

        Raises:
            RunFailedError: it was removed, moved, or replaced by another.
        """
        self._lock.check()

    def notify(self, stage: str, message: str) -> None:
        """Tell the observers something that the user should know."""
        self.observers.observe(Notice(stage=stage, message=message))

    def has_results(self) -> bool:
        """Whether an earlier start has left a stage, finished or not."""
        return any((self.path / stage.key / ARTIFACT).exists() for stage in self._recipe.stages)

    def provenance(self, stage: Stage) -> Provenance:
        """Where the network comes from that a stage begins with; the stage that left it is finished."""
        weights = stage.weights if stage.earlier is None else self._fingerprints[stage.earlier]
        if stage.source is not None:  # wherever it lies
            missing = stage.source.allow_missing
            weights = stage.source.fingerprint or " ".join(
                [f"file {hash_of(stage.source.path)}", *(["without", *missing] if missing else [])]
            )
        if stage.snapshot is not None:
            weights = f"{weights}@{stage.snapshot}"
        return Provenance(
            record=BackboneRecord(stage.backbone.name, stage.backbone.options),
            weights=weights,
            code=self._recipe.sources[stage.key],
            environment={"plugins": dict(self._recipe.versions[stage.key]), "code": self._recipe.code.as_json()},
            extended=stage.earlier in self._extended,
        )

    def expect(self, stage: Stage, found: Found) -> None:
        """Note a stage's fingerprint, and whether its training, or that of a stage before it, was extended."""
        self._fingerprints[stage.key] = found.fingerprint
        if found.extended or stage.earlier in self._extended:
            self._extended.add(stage.key)

    def keep(self, stage: Stage, result: StageResult) -> None:
        """Write the metrics of a finished stage into results.json."""
        self._fingerprints[stage.key] = result.fingerprint
        self.results.stages[stage.key] = result.metrics
        self.results.pending.remove(stage.key)
        write_json(self.path / "results.json", self.results.as_json())

    def write_recipe(self) -> None:
        """Write the resolved recipe; where it has a sweep, the recipe as it is, and each variant's resolved one."""
        _write_toml(self.path / "recipe.toml", self._recipe.table)
        for name, table in self._recipe.variants.items():
            _write_toml(self.path / "variants" / f"{name}.toml", table)

    def _make(self) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise ArtifactError(f"{path}: is a file", fix=_OTHER_FOLDER)
        if path.resolve() == Path.cwd():  # an empty variable in --output "$OUT" means it, too
            raise ArtifactError("the current folder cannot be a run's", fix=_OTHER_FOLDER)
        known = (LOCK, "results.json", *(f"{stage.key}/{ARTIFACT}" for stage in self._recipe.stages))
        if (path / "recipe.toml").exists() and not any((path / name).exists() for name in known):
            raise ArtifactError(f"{path}: holds a recipe.toml that no run wrote, which would be replaced", fix=_OTHER_FOLDER)
        try:
            make_folder(path)
        except StorageError as error:  # before anything was computed it is the user's to choose another
            raise ArtifactError(f"{path}: cannot be written to ({error.__cause__})", fix=_OTHER_FOLDER) from error


class _Keeper(Record):
    """Makes sure now and then that the folder is still there, and writes the recipe down when a stage begins to compute: a start that is
    refused, or that finds everything finished, changes nothing.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @override
    def observe(self, event: Event) -> None:
        if isinstance(event, StageStart | CheckpointSaved | StageEnd):
            self._folder.check()
        if isinstance(event, StageStart):
            self._folder.write_recipe()


def _write_toml(path: Path, table: Mapping[str, object]) -> None:
    write_text(path, tomli_w.dumps(dict(table)))


def _remove_stage(folder: Path) -> None:
    """The artifact goes first: should this be cut short, what is left is no stage that could be taken for finished."""
    if (folder / ARTIFACT).exists():
        with writing(folder):
            (folder / ARTIFACT).unlink()
            shutil.rmtree(folder)
