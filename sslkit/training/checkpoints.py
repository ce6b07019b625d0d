"""The checkpoints of one fit, which belong to it alone: the last few are kept, a damaged one is skipped."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.class_address import address_of
from sslkit.contract.errors import ArtifactError, PluginError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import CheckpointSaved, Notice
from sslkit.contract.objective import Objective
from sslkit.storage.atomic import make_folder, remove, writing
from sslkit.storage.identity import CODE, differences, plain, state_hash
from sslkit.storage.tensor_file import load_tensors, save_tensors
from sslkit.training.device import describe_device
from sslkit.training.features import BatchSource
from sslkit.training.options import TrainingOptions

FORMAT = 3
"""Of checkpoints; incremented when older ones can no longer be read."""

_STAMP, _ROLLBACK = "written_on", "-rollback"


class Checkpoint(NamedTuple):
    """What was read back: the file, its tensors, and its JSON values."""

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one fit in its stage's folder, or none where the stage has no folder.

    ``owner``, which JSON must be able to hold, identifies the fit: it never resumes from another's checkpoint. Besides the last few there
    may be a rollback point, which a diverged fit returns to and which is kept until the next one.

    A disk that cannot take a checkpoint raises a ``StorageError`` and leaves the earlier ones in place; a file of another version of
    sslkit, or of another fit, raises an ``ArtifactError``.
    """

    def __init__(self, context: RunContext, owner: Mapping[str, Any]) -> None:
        self._context = context
        self._owner = owner
        self._folder = context.folder
        self._since = time.monotonic()
        if self._folder is not None:
            make_folder(self._folder)  # once: a folder that vanishes later must not come back with a checkpoint alone
        self._prefix = f"checkpoint-{context.part}-" if context.part else "checkpoint-"
        self._result_name = f"{self._prefix}result.safetensors"

    @property
    def kept(self) -> bool:
        """Whether there is a folder for them."""
        return self._folder is not None

    def due(self) -> bool:
        """Whether it is time to write one."""
        return self.kept and time.monotonic() - self._since >= 60 * self._context.runtime.checkpoint_minutes

    def latest(self) -> Path | None:
        """The newest file, damaged or not."""
        return next(iter(self._newest_first()), None)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step, and remove the oldest beyond ``keep_checkpoints``."""
        assert self._folder is not None
        self._write(self._folder / f"{self._prefix}{step:09d}.safetensors", step, tensors, state)
        self._since = time.monotonic()
        remove([path for path in self._newest_first() if not _is_rollback_point(path)][self._context.runtime.keep_checkpoints :])

    def save_rollback_point(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write what a diverged fit returns to. Later checkpoints are removed, and so is the previous rollback point."""
        assert self._folder is not None
        remove(path for path in self._newest_first() if _step(path) > step)
        path = self._folder / f"{self._prefix}{step:09d}{_ROLLBACK}.safetensors"
        self._write(path, step, tensors, state)
        remove(other for other in self._newest_first() if _is_rollback_point(other) and other != path)

    def load_rollback_point(self) -> Checkpoint | None:
        """What a diverged fit returns to; None where an earlier start found it damaged and set it aside."""
        found = [path for path in self._newest_first() if _is_rollback_point(path)]
        return Checkpoint(found[0], *load_tensors(found[0])) if found else None

    def load_latest(self) -> Checkpoint | None:
        """The newest one that is not damaged; None where there is none and the fit begins from the start."""
        files = self._newest_first()
        for path in files:
            if (found := self._read(path)) is not None:
                return found
        if files:
            self._notify("no checkpoint can be read: the training begins from the start")
        return None

    def save_result(self, result: Mapping[str, float]) -> None:
        """Keep what a finished fit measured, in place of its checkpoints."""
        if self._folder is not None:
            save_tensors(self._folder / self._result_name, {}, self._stamped({"result": dict(result)}))
            remove(self._newest_first())

    def load_result(self) -> dict[str, float] | None:
        """What :meth:`save_result` kept; None where the fit is not finished, or the file is damaged."""
        if self._folder is None or not (path := self._folder / self._result_name).exists():
            return None
        found = self._read(path)
        return None if found is None else found.state["result"]

    def _read(self, path: Path) -> Checkpoint | None:
        """A file of this fit; None where it is damaged, and set aside."""
        try:
            found = Checkpoint(path, *load_tensors(path))
        except ArtifactError as error:
            with writing(path):
                path.replace(path.with_suffix(".damaged"))  # so that it does not count as one of those to keep
            self._notify(f"{error.what}; it is set aside")
            return None
        self._check(path, found.state)
        return found

    def _newest_first(self) -> list[Path]:
        """A rollback point precedes a checkpoint of the same step: it was written later, when the next epoch had begun."""
        if self._folder is None:
            return []
        pattern = f"{self._prefix}{'[0-9]' * 9}"
        found = [*self._folder.glob(f"{pattern}.safetensors"), *self._folder.glob(f"{pattern}{_ROLLBACK}.safetensors")]
        return sorted(found, key=lambda path: (_step(path), _is_rollback_point(path)), reverse=True)

    def _write(self, path: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        save_tensors(path, tensors, self._stamped({**state, "step": step}))
        self._context.emit(CheckpointSaved(stage=self._context.stage, part=self._context.part, step=step, path=path))

    def _stamped(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {**state, "format": FORMAT, "owner": self._owner, _STAMP: _machine(self._context.device)}

    def _check(self, path: Path, state: Mapping[str, Any]) -> None:
        if (found := state.get("format")) != FORMAT:
            raise ArtifactError(
                f"{path}: is a checkpoint of another version of sslkit (format {found}, not {FORMAT})",
                fix=f"finish the stage with the version that began it, or remove {path.parent} to run it again",
            )
        found = state.get("owner")
        if found != self._owner:
            raise ArtifactError(
                f"{path}: is a checkpoint of another fit ({'; '.join(differences(found if type(found) is dict else {}, self._owner))})",
                fix=f"remove the checkpoints in {path.parent} to begin from the start, or choose another folder",
            )
        before, now = state.get(_STAMP), _machine(self._context.device)
        if before != now:
            known = dict(before) if type(before) is dict else {}
            changes = "; ".join(f"{key}: {known.get(key)} -> {now.get(key)}" for key in {**known, **now} if known.get(key) != now.get(key))
            self._notify(f"the checkpoint was written on another machine or version ({changes}): results may differ in the last digits")

    def _notify(self, message: str) -> None:
        self._context.emit(Notice(stage=self._context.stage, message=message))


def last_step(folder: Path) -> int | None:
    """The step of the last checkpoint of a stage's only fit; None: there is none."""
    return max(map(_step, _checkpoints_in(folder)), default=None)


def hand_over(folder: Path, training: Mapping[str, Any]) -> None:
    """Rewrite the owner of the checkpoints of a stage's only fit, so that it continues with other training options (plain values)."""
    for path in _checkpoints_in(folder):
        with suppress(ArtifactError):  # a damaged one, which is set aside when it is looked for
            tensors, state = load_tensors(path)
            save_tensors(path, tensors, {**state, "owner": {**state["owner"], "training": training}})


def _checkpoints_in(folder: Path) -> list[Path]:
    pattern = f"checkpoint-{'[0-9]' * 9}"
    return [*folder.glob(f"{pattern}.safetensors"), *folder.glob(f"{pattern}{_ROLLBACK}.safetensors")]


def _step(path: Path) -> int:
    return int(path.stem.removesuffix(_ROLLBACK).rpartition("-")[2])


def _is_rollback_point(path: Path) -> bool:
    return path.stem.endswith(_ROLLBACK)


def _machine(device: torch.device) -> dict[str, str]:
    """What decides rounding: an interrupted run ends with the same bits only where these stay the same."""
    return {"torch": torch.__version__, "device": describe_device(device)}


def identity_of(objective: Objective, train: BatchSource, training: TrainingOptions, context: RunContext) -> dict[str, Any]:
    """What identifies a fit to its checkpoints. Trained weights are not part of it because they may begin at random."""
    frozen = [objective.get_submodule(name) for name in objective.frozen]
    return {
        "objective": address_of(type(objective)),
        "options": dict(_options(objective)),
        "frozen": [state_hash(module) for module in frozen],
        "training": plain(training),
        "data": train.fingerprint,
        "part": context.part,
        CODE: SourceCode().of(objective, training),
    }


def _options(objective: Objective) -> Iterator[tuple[str, Any]]:
    """The options that an objective keeps: dataclasses of plain values, as tasks are."""
    for name, value in vars(objective).items():
        if dataclasses.is_dataclass(value):
            with suppress(TypeError, PluginError):
                yield name, plain(value)
