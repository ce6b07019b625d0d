"""Weights from outside the recipe: ``run:PATH#stage`` is a network of another run, ``file:PATH`` a file of tensors. No tensor is read here."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit.catalog.catalog import Catalog
from sslkit.contract.class_address import address_of
from sslkit.contract.errors import ArtifactError, RecipeError, did_you_mean
from sslkit.contract.images import ImageSpec
from sslkit.recipe.build import options_of
from sslkit.recipe.bundled import bundled_weights
from sslkit.recipe.describe import BackboneOptions, build_backbone_options
from sslkit.storage.identity import differences
from sslkit.storage.json_files import SavedArtifact, read_json

RUN, FILE = "run:", "file:"

_RUN = re.compile(r"run:(?P<path>.+)#(?P<stage>[^#@]+)(@(?P<epoch>\d+))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights lie outside the recipe's own run.

    Attributes:
        path: of another run's stage, or of a file.
        snapshot: the epoch after which that stage kept the network; None: the final one.
        fingerprint: of the stage that left it; empty for a file, whose content is hashed when it is read.
        image: what the other run built its network for; None for a file, which says nothing of its network.
        prefix: of the network's names in a file; empty: found by comparing names.
        allow_missing: prefixes of the names that a file may lack.
    """

    path: Path
    snapshot: int | None = None
    fingerprint: str = ""
    image: ImageSpec | None = None
    prefix: str = ""
    allow_missing: tuple[str, ...] = ()


def is_outside(weights: object) -> bool:
    """Whether a stage's ``weights`` name a run or a file."""
    return isinstance(weights, str) and weights.startswith((RUN, FILE))


def anchored(weights: Any, folder: Path) -> Any:
    """Weights whose path does not depend on the current folder: a relative one begins at ``folder``."""
    if not is_outside(weights):
        return weights
    kind, _, rest = weights.partition(":")
    if not rest or (kind == "file" and rest in bundled_weights()):
        return weights
    return f"{kind}:{os.path.abspath(folder / os.path.expanduser(rest))}"  # noqa: PTH100, PTH111 - with what follows a #


def find_source(weights: str, path: str, allow_missing: tuple[str, ...]) -> tuple[Source, Mapping[str, Any]]:
    """Where the weights lie; of another run's also what its artifact says of the network. ``path`` is the dotted path of the key.

    Raises:
        RecipeError: there are no such weights.
    """
    if weights.startswith(FILE):
        return _file(weights.removeprefix(FILE), path, allow_missing), {}
    if allow_missing:
        raise RecipeError(f"{path.removesuffix('.weights')}.allow_missing: is for a file", found=list(allow_missing), fix="leave it out")
    found = _RUN.fullmatch(weights)
    run = Path(found["path"] if found else weights.removeprefix(RUN))
    if not run.is_dir():
        raise RecipeError(f"{path}: no such folder of a run", found=str(run), allowed='"run:PATH#stage"')
    stages = [file.parent.relative_to(run).as_posix() for file in sorted(run.glob("**/artifact.json")) if _left(file.parent)]
    if found is None or found["stage"] not in stages:
        fix = did_you_mean(found["stage"], stages) if found else f"add its name: {weights}#{stages[0]}" if stages else ""
        raise RecipeError(
            f"{path}: names no stage of that run that left a backbone", found=weights, allowed=stages or "none there", fix=fix
        )
    try:
        folder, snapshot = run / found["stage"], int(found["epoch"]) if found["epoch"] else None
        artifact = read_json(folder / "artifact.json", SavedArtifact)
    except ArtifactError as error:
        raise RecipeError(f"{path}: {error}") from error
    record, kept = artifact.get("backbone"), artifact.get("snapshot_epochs", [])
    if artifact.get("status") != "finished" or record is None:
        raise RecipeError(f"{path}: that stage is not finished", found=weights, fix="run it to its end first")
    if snapshot is not None and snapshot not in kept:
        allowed = [f"@{epoch}" for epoch in kept] or "no snapshot"
        raise RecipeError(f"{path}: that stage keeps no such snapshot", found=weights, allowed=allowed)
    image = record["image"]
    spec = ImageSpec(**{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])})
    if not artifact.get("fingerprint") or {len(spec.mean), len(spec.std)} != {spec.num_chs}:
        raise RecipeError(f"{path}: the artifact of that stage is damaged", found=weights, fix="run it again")
    fingerprint = f"{artifact['fingerprint']}{'' if snapshot is None else f'@{snapshot}'}"
    return Source(path=folder, snapshot=snapshot, fingerprint=fingerprint, image=spec), record


def saved_network(record: Mapping[str, Any], own: BackboneOptions | None, path: str, foreign: Catalog) -> BackboneOptions:
    """The network of another run, built as it was saved there.

    Args:
        record: what the artifact says of it.
        own: what the recipe says of it, which must agree; None: nothing. A class of the user's own that the recipe names needs no leave.
        path: the dotted path of the weights.
        foreign: the catalog for names that only the other run's folder gives.

    Raises:
        RecipeError: the two differ, or the class may not be imported.
    """
    spec, options = record["class"], record["options"]
    if options is None:
        raise RecipeError(f"{path}: that network was made in Python, and no recipe can build it again", found=spec)
    if own is None:
        return build_backbone_options({"name": spec, **options}, path, foreign).without_downloads()
    own = own.without_downloads()
    if spec not in (own.name, address_of(own.cls)):
        fix = f"leave the table out, or name {spec!r}"
        raise RecipeError(f"{own.path}.name: is not the network of the run that {path} names", found=own.name, allowed=spec, fix=fix)
    defaults = {key: option.default for key, option in options_of(own.cls).items()}
    saved = options | ({"pretrained": False} if "pretrained" in options else {})
    # One that a later version has added is as it was before where it has its default.
    given = {key: value for key, value in own.options.items() if key in saved or own.arguments[key] != defaults[key]}
    if changed := differences(saved, given):
        what = f"{own.path}: is not built as in the run that {path} names ({'; '.join(changed)})"
        raise RecipeError(what, fix="leave the table out, or give it the same options")
    return own


def _file(rest: str, path: str, allow_missing: tuple[str, ...]) -> Source:
    name, mark, prefix = rest.rpartition("#")
    file = Path(name if mark else rest)
    if mark and not os.path.exists(file) and os.path.exists(rest):  # noqa: PTH110 - as in find_recipe
        file, prefix = Path(rest), ""
    file = bundled_weights().get(str(file), file)
    if not os.path.isfile(file):  # noqa: PTH113
        near = did_you_mean(str(file), bundled_weights())
        what = "is no file" if os.path.exists(file) else "no such file"  # noqa: PTH110
        raise RecipeError(f"{path}: {what}", found=str(file), allowed="a safetensors file, or the name of bundled weights", fix=near)
    return Source(path=file, prefix=prefix if mark else "", allow_missing=allow_missing)


def _left(folder: Path) -> bool:
    return (folder / "backbone.safetensors").is_file()
