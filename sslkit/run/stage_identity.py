"""The identity of a stage, and what its folder holds: nothing, the same stage, one that can be continued, or a different one."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from sslkit.contract.errors import ArtifactError
from sslkit.contract.images import ImageSpec
from sslkit.run.artifacts import ARTIFACT, read_artifact
from sslkit.run.environment import Provenance, Surroundings
from sslkit.storage.identity import CODE, changed_keys, differences, fingerprint, plain
from sslkit.training.checkpoints import last_step

FORMAT = 2
"""Of a stage's folder; counted up when an older one cannot be resumed."""

EXTENDED = "extended"
"""The key of an identity, and of an artifact, that says from where a stage was continued with other options."""

_CONTINUABLE = re.compile(r"training\.(epochs|clip_grad_norm|(schedule|on_nan)\..+)|snapshot_epochs")
"""Keys that may differ between the two parts of a training: those that no checkpoint depends on."""


class Found(NamedTuple):
    """A stage, compared with what its folder holds.

    Attributes:
        identity: of the stage, including its history where it was extended.
        artifact: of the same stage, or of the one that it continues; empty where there is nothing to build on.
        continues: whether the artifact has other options, and this stage continues its training.
        outdated: whether the folder holds this stage for a network that has since been trained further.
    """

    identity: dict[str, Any]
    artifact: dict[str, Any]
    continues: bool = False
    outdated: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the identity."""
        return fingerprint(self.identity)

    @property
    def extended(self) -> bool:
        """Whether it was, or will be, trained in several parts."""
        return EXTENDED in self.identity


def complete(identity: Mapping[str, Any], given: Surroundings, image: ImageSpec, provenance: Provenance) -> dict[str, Any]:
    """Add the rest of what decides the outcome. Device, logging and checkpoint intervals do not."""
    return {
        **identity,
        "stage": given.name,
        "seed": given.seed,
        "precision": given.runtime.precision,
        "deterministic": given.runtime.deterministic,
        "backbone": {**provenance.record._asdict(), "image": plain(image), "weights": provenance.weights},
        "versions": {"sslkit": version("sslkit")},
        CODE: dict(provenance.code),
    }


def examine(folder: Path, identity: dict[str, Any], given: Surroundings) -> Found:
    """Compare a stage with what its folder holds; changes nothing.

    Raises:
        ArtifactError: the folder holds a different stage, and the message says what differs; or its artifact is damaged.
    """
    if not (folder / ARTIFACT).exists():
        return Found(identity, {})
    artifact = read_artifact(folder)
    finished = artifact.get("status") == "finished"
    if finished and "metrics" not in artifact:
        raise ArtifactError(f"{folder}/{ARTIFACT}: damaged (metrics: missing)", fix="remove it and run the recipe again")
    if (found := artifact.get("format")) != FORMAT:
        raise ArtifactError(
            f"{folder}: was written by another version of sslkit (format {found}, not {FORMAT})",
            fix="resume it with that version, start over with --fresh, or choose another folder with --output",
        )
    before = artifact.get("identity", {})
    history = before.get(EXTENDED, [])
    for known in (identity, {**identity, EXTENDED: history}):  # an extended stage is the same one however it is started again
        if artifact.get("fingerprint") == fingerprint(known):
            return Found(known, artifact)
    left = [path for path in folder.iterdir() if path.name != ARTIFACT and path.name[0] != "." and path.stat().st_size]
    if not finished and not left:
        return Found(identity, {})  # that start failed before it computed anything: what was mended since need not be refused
    refusal = ""
    if given.extend:
        keys = [key for key in changed_keys(before, identity) if not key.startswith(EXTENDED)]
        if keys == ["backbone.weights"] and given.provenance and given.provenance.extended:
            return Found(identity, {}, outdated=True)
        steps = last_step(folder)
        refusal = _why_not(keys, before, identity, partial(_in_recipe, stage=given.name), finished=finished)
        if not refusal and steps is None and finished:
            refusal = "--extend finds no checkpoint"
        if not refusal and steps is None:
            return Found(identity, {})  # stopped before there was a checkpoint
        if not refusal:
            part = {"epochs": before["training"]["epochs"], "steps": steps, "schedule": before["training"].get("schedule")}
            return Found({**identity, EXTENDED: [*history, part]}, artifact, continues=True)
    raise _other(folder, given, before, identity, refusal, finished=finished)


def _why_not(
    keys: list[str], before: Mapping[str, Any], now: Mapping[str, Any], name: Callable[[str], str] = str, *, finished: bool
) -> str:
    """Why a stage cannot be continued with these changes; empty where it can."""
    if other := [key for key in keys if not _CONTINUABLE.fullmatch(key)]:
        return f"--extend cannot change {', '.join(map(name, other))}"
    old, new = before["training"].get("epochs"), now["training"]["epochs"]
    if not isinstance(old, int) or new < old or (finished and new == old):
        return f"--extend needs more than the {old} epochs that there were"
    kept, wanted = before.get("snapshot_epochs") or [], now.get("snapshot_epochs", [])
    if any(epoch not in wanted for epoch in kept) or any(epoch <= old for epoch in wanted if epoch not in kept):
        return "--extend keeps the earlier snapshot_epochs, and adds later ones alone"
    return ""


def _other(
    folder: Path, given: Surroundings, before: Mapping[str, Any], now: Mapping[str, Any], refusal: str, *, finished: bool
) -> ArtifactError:
    recipe = given.provenance is not None
    changed = differences(
        {key: value for key, value in before.items() if key != EXTENDED}, now, lambda key: _in_recipe(key, given.name) if recipe else key
    )
    redrawn = not recipe and [key.partition(":")[0] for key in changed] == ["backbone.weights"]
    hint = "random weights are drawn anew in each program: call torch.manual_seed before you build the backbone; " if redrawn else ""
    if refusal:
        hint = f"{refusal}; "
    elif recipe and "training" in before and "training" in now and not given.extend:
        keys = changed_keys({**before, EXTENDED: None}, {**now, EXTENDED: None})
        if not _why_not(keys, before, now, finished=finished):
            hint = "continue it with --extend, "
    return ArtifactError(
        f"{folder}: holds stage {given.name!r} of a different recipe ({'; '.join(changed)})",
        fix=f"{hint}remove that folder to run this stage again, start over with --fresh, or choose another folder with --output",
    )


def _in_recipe(key: str, stage: str) -> str:
    """What a key of an identity is called in a recipe."""
    key = re.sub(r"\.class$", ".name", key)
    if key in {"backbone.weights", "snapshot_epochs"}:
        return f"stages.{stage}.{key.rpartition('.')[2]}"
    if key.startswith("training."):
        return f"stages.{stage}.{key.removeprefix('training.')}"
    if key.startswith(("task.", "evaluator.")):
        return f"stages.{stage}.{key}"
    return key.replace("backbone.options.", "backbone.").replace("backbone.spec", "backbone.name")
