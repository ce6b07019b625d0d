"""Values that nobody would write, and recipes with a few of them in the place of good ones."""

import copy
import datetime
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_WORDS = [
    ".",
    "..",
    "../x",
    "/",
    "a/b",
    "a.b",
    "random",
    "each",
    "pretrain@each",
    "pretrain@1",
    "pretrain@²",
    "no_module:Class",
    ":",
    "a:",
    "~",
    "~nobody/x",
    "auto",
    "cpu:99999999999999999999",
    "meta",
    "cuda:-1",
    "resnet18",
    "vit_tiny_patch16_224",
    "nin",
    "timm",
    "knn",
    "sgd",
    "step",
    "<script>",
]
_LETTERS = ["", "a: b", "nul\0", "line\nbreak", "\x1b[31m", "\u202e", "x" * 300, "x" * 5000]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from([*_WORDS, *_LETTERS])
NUMBERS = (
    st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([10**6, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**25, 10**30, 10**400])
    | st.floats()
    | st.sampled_from([1e9, 1e300, -0.0, math.inf, math.nan])
)
DATES = st.dates() | st.times() | st.datetimes(min_value=datetime.datetime(1000, 1, 1))
SCALARS = st.booleans() | NUMBERS | TEXTS | DATES
KEYS = TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8)
TREES = st.dictionaries(KEYS, VALUES, max_size=5)

DATA = [
    {"name": "digits", "image_size": 8},
    {"name": "image_folder", "root": "nowhere", "image_size": 32, "mean": [0.5], "color": "gray", "std": [0.5], "val_fraction": 0.1},
    *({"name": name, "root": "nowhere", "download": False} for name in ("cifar10", "cifar100", "stl10", "svhn", "mnist", "fashion_mnist")),
]
TRAINING = {
    "epochs": 1,
    "batch_size": 64,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    "schedule": {"name": "step", "milestones": [1.0], "gamma": 0.5, "warmup_epochs": 0.5},
    "augment": {"crop_padding": 1, "horizontal_flip": True},
}
EVALUATORS = [
    {"name": "linear_probe", "layers": ["conv2"], **TRAINING},
    {"name": "mlp_probe", "layers": ["conv2"], "hidden": 8, **TRAINING},
    {"name": "conv_probe", "layers": ["conv1", "conv2"], "width": 8, **TRAINING},
    {"name": "knn", "layers": ["conv2"], "k": 5, "temperature": 0.1, "batch_size": 64},
    {"name": "feature_quality", "layers": ["conv2"], "batch_size": 64},
    {"name": "finetune", "layer": "conv2", "head": "mlp", **TRAINING},
    {
        "name": "semi_supervised",
        "labels_per_class": [2, 5],
        "layers": ["conv2"],
        "head": "linear",
        "freeze": True,
        "selection": "random",
        "num_subsets": [2, 1],
        "images_per_epoch": 100,
        **TRAINING,
    },
]


def recipe(data: dict[str, Any], evaluator: dict[str, Any], *, sweep: bool) -> dict[str, Any]:
    """A good recipe with every kind of table in it."""
    table = {
        "name": "tiny",
        "seed": 0,
        "device": "cpu",
        "log_every": 10,
        "checkpoint_minutes": 1.0,
        "data": data,
        "backbone": {"name": "nin", "num_blocks": 3, "width": 0.05, "pool_after_conv3": False},
        "stages": {
            "pretrain": {"task": {"name": "rotnet", "angles": [0, 90]}, "evaluate_every": 1, "snapshot_epochs": [0, 1], **TRAINING},
            "probe": {"weights": "pretrain@each", "evaluator": evaluator, "precision": "float32"},
            "baseline": {
                "weights": "random",
                "evaluator": {"name": "supervised", "layer": "conv1", **TRAINING},
                "backbone": {"width": 0.1},
            },
        },
        "observers": [],
    }
    if sweep:
        table["sweep"] = {
            "backbone.num_blocks": [3, 4],
            "wide": {"stages.pretrain.schedule.gamma": 0.1},
            "narrow": {"stages.pretrain.schedule.gamma": 0.2},
        }
    else:
        table["paper"] = {"baseline.conv1.top1": 50.0}
        table["margins"] = {"a margin": ["baseline.conv1.top1", "pretrain.pretext_top1"]}
    return copy.deepcopy(table)


RECIPES = st.builds(recipe, st.sampled_from(DATA), st.sampled_from(EVALUATORS), sweep=st.booleans())


@st.composite
def spoilt_recipes(draw: st.DrawFn) -> dict[str, Any]:
    """A good recipe after one to three mutations."""
    table = draw(RECIPES)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(table))
        if not places:
            return table
        mutate = draw(st.sampled_from([_replace, _replace, _replace, _rename, _remove, _move, _repeat]))
        mutate(draw, places)
    return table


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key or index in it."""
    items = list(container.items() if isinstance(container, dict) else enumerate(container))
    for key, value in items:
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


Place = tuple[Any, Any]


def _replace(draw: st.DrawFn, places: list[Place]) -> None:
    container, key = draw(st.sampled_from(places))
    container[key] = draw(VALUES)


def _rename(draw: st.DrawFn, places: list[Place]) -> None:
    container, key = draw(st.sampled_from(places))
    if isinstance(container, dict):
        known = st.sampled_from(sorted({str(other) for _, other in places}))
        container[draw(KEYS | known)] = container.pop(key)


def _remove(draw: st.DrawFn, places: list[Place]) -> None:
    container, key = draw(st.sampled_from(places))
    del container[key]


def _move(draw: st.DrawFn, places: list[Place]) -> None:
    _repeat(draw, places, keep=False)


def _repeat(draw: st.DrawFn, places: list[Place], *, keep: bool = True) -> None:
    container, key = draw(st.sampled_from(places))
    value = copy.deepcopy(container[key])
    if not keep:
        del container[key]
    target, _ = draw(st.sampled_from(places))
    if isinstance(target, list):
        target.append(value)
    else:
        target[draw(st.just(key if isinstance(key, str) else "x") | KEYS)] = value


def paths(value: Any, path: str = "") -> Iterator[str]:
    """The dotted path of everything in a table, in each spelling that messages have."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            plain = key if re.fullmatch(r"[A-Za-z0-9_.-]+", key) else json.dumps(key, ensure_ascii=False)
            for spelt in {key, plain, f'"{key}"'}:
                yield from paths(inner, f"{path}.{spelt}" if path else spelt)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from paths(inner, f"{path}[{place}]")
