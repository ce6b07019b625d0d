"""``[sweep]``: one recipe, several variants, and which of their stages are one and the same."""

import copy
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sslkit.contract.errors import RecipeError
from sslkit.recipe.stages import Stage
from sslkit.recipe.toml import EXTENDS, set_key

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FIXED = ("name", *EXTENDS, "data", "sweep", "paper", "margins", "observers")
"""What all variants of a recipe have in common."""

MAX_VARIANTS = 500
"""Of a sweep: each is checked whole before anything is computed."""


class Variant(NamedTuple):
    """One combination of a sweep's values."""

    labels: tuple[str, ...]  # one per axis: ``num_blocks=3``, or the name of a variant; empty without a sweep
    table: dict[str, Any]  # the recipe with these values in it, and no sweep

    @property
    def name(self) -> str:
        """The labels in one word."""
        return ",".join(self.labels)


class _Choice(NamedTuple):
    """One point of an axis: what it is called, the keys that it sets, and its path in the recipe."""

    label: str
    values: Mapping[str, Any]
    path: str


def expand(table: Mapping[str, Any]) -> list[Variant]:
    """All combinations of the sweep's axes, in the order they are written; the table itself where it has no sweep.

    An array is an axis: ``"backbone.num_blocks" = [3, 4, 5]``. Tables are the named points of one more axis, each with the keys that it
    sets: ``half = { "stages.pretrain.schedule.gamma" = 0.5 }``.
    """
    bare = {key: value for key, value in table.items() if key != "sweep"}
    if "sweep" not in table:
        return [Variant((), bare)]
    axes = _axes(table["sweep"])
    if (number := math.prod(map(len, axes))) > MAX_VARIANTS:
        raise RecipeError(f"sweep: makes {number:,} variants", allowed=f"{MAX_VARIANTS:,}", fix="write several recipes")
    variants = []
    for point in itertools.product(*axes):
        changed = copy.deepcopy(bare)
        for choice in point:
            for key, value in choice.values.items():
                set_key(changed, key, copy.deepcopy(value), choice.path)
        variants.append(Variant(tuple(choice.label for choice in point), changed))
        if len(variants[-1].name) > 200:
            fix = "name the variants: [sweep.NAME] with the keys of each"
            raise RecipeError("sweep: a variant's name is too long for a folder", found=variants[-1].name, fix=fix)
    return variants


def merge(variants: Sequence[Variant], stages: Sequence[Sequence[Stage]]) -> tuple[Stage, ...]:
    """All stages of all variants, each once, in the order in which they are first needed.

    A stage's key then names only the axes that change it or a stage before it: two probes share one pretraining.
    """
    if not variants[0].labels:  # no sweep, and perhaps many stages
        return tuple(stages[0])
    by_labels = [
        (variant.labels, {stage.key: identity(stage, own) for stage in own}) for variant, own in zip(variants, stages, strict=True)
    ]
    merged: dict[str, Stage] = {}
    for variant, own in zip(variants, stages, strict=True):
        keys: dict[str, str] = {}
        for stage in own:
            telling = [label for axis, label in enumerate(variant.labels) if _matters(axis, stage.key, by_labels)]
            key = keys[stage.key] = f"{','.join(telling)}/{stage.key}" if telling else stage.key
            merged.setdefault(key, replace(stage, key=key, weights=keys.get(stage.earlier or "", stage.weights)))
    return tuple(merged.values())


def identity(stage: Stage, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Equal for stages that do the same on the same data: the stage and all that its weights depend on, without their keys."""
    by_key = {other.key: other for other in stages}
    chain = [stage]
    while (earlier := chain[-1].earlier) is not None:  # a loop, for a chain may be longer than Python's stack
        chain.append(by_key[earlier])
    beginning = chain[-1].weights
    return tuple(replace(one, key=one.name, weights=beginning) for one in chain)


def _matters(axis: int, key: str, by_labels: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]]) -> bool:
    """Whether two variants that differ on this axis alone have different stages of this key."""
    seen: dict[tuple[str, ...], Any] = {}
    for labels, identities in by_labels:
        others = labels[:axis] + labels[axis + 1 :]
        if seen.setdefault(others, identities.get(key)) != identities.get(key):
            return True
    return False


def _axes(sweep: Any) -> list[list[_Choice]]:
    if not isinstance(sweep, Mapping) or not sweep:
        raise RecipeError("sweep: must be a table", found=sweep, allowed='"key" = [values], or a table of keys for each named variant')
    arrays, named = {}, []
    for name, values in sweep.items():
        if not isinstance(values, Mapping):
            arrays[name] = values
            continue
        if not _LABEL.fullmatch(name):
            raise RecipeError(f"sweep: {name!r} cannot name a variant", allowed="letters, digits, _, - and .")
        for key in values:
            _check_key(key, f"sweep.{name}")
        named.append(_Choice(name, values, f"sweep.{name}"))
    return [*([named] if named else []), *(_array(key, values, arrays) for key, values in arrays.items())]


def _array(key: str, values: Any, arrays: Mapping[str, Any]) -> list[_Choice]:
    _check_key(key, "sweep")
    if not isinstance(values, list) or not values:
        allowed = f'"{key}" = [...] with one value or more, or a table of keys for a named variant'
        raise RecipeError(f'sweep."{key}": must be an array of values', found=values, allowed=allowed)
    last = key.rpartition(".")[2]
    short = last if sum(other.rpartition(".")[2] == last for other in arrays) == 1 else key
    if not _LABEL.fullmatch(short):
        raise RecipeError(f'sweep."{key}": this key cannot name a folder', allowed="letters, digits, _, - and .")
    labels = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    for label, value in zip(labels, values, strict=True):
        if not _LABEL.fullmatch(label):
            fix = f'name the variants: [sweep.NAME] with "{key}" = ...'
            raise RecipeError(f'sweep."{key}": this value cannot name a folder', found=value, allowed="plain numbers and words", fix=fix)
    if len(set(labels)) < len(labels):
        raise RecipeError(f'sweep."{key}": has a value twice', found=values)
    return [_Choice(f"{short}={label}", {key: value}, f'sweep."{key}"') for label, value in zip(labels, values, strict=True)]


def _check_key(key: str, path: str) -> None:
    first = key.partition(".")[0]
    if first in _FIXED:
        raise RecipeError(f"{path}: {first} is the same in all variants", found=key, fix="write a recipe of its own, and compare the runs")
    if key == "stages":
        raise RecipeError(f"{path}: write the whole key in quotes", found=key, allowed='"stages.pretrain.epochs" = ...')
