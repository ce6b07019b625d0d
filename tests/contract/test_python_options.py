"""Options that are given in Python pass the same door as a recipe's."""

import copy
import dataclasses
import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from torch import nn

from sslkit import (
    KNN,
    NIN,
    SGD,
    AdamW,
    Arrays,
    Augment,
    ConvProbe,
    Cosine,
    DataInfo,
    Digits,
    FineTune,
    ImageFolder,
    LinearProbe,
    MultiStep,
    Objective,
    OptionError,
    PretextTask,
    SemiSupervised,
    TrainingOptions,
    evaluate,
    pretrain,
)
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.runtime import Runtime
from sslkit.recipe.build import build
from sslkit.storage.identity import plain
from sslkit_rotnet import RotNet
from tests.contract.miniatures.backbones import TinyConv
from tests.recipes import refusal

IMAGE = Digits().image()


@dataclass(frozen=True, kw_only=True)
class Foreign(PretextTask):
    """A task of somebody who has never heard of a door."""

    angles: tuple[int, int] = (0, 90)
    weights: dict[str, float] | None = None
    mode: Literal["fast", 2] = "fast"
    optimizer: SGD | AdamW | None = None

    def build_objective(self, backbone: Any, data: DataInfo) -> Objective:
        raise NotImplementedError


class Plain(PretextTask):
    """One with a constructor of its own."""

    def __init__(self, *, depth: int = 1, note: object = None) -> None:
        self.depth = depth

    def build_objective(self, backbone: Any, data: DataInfo) -> Objective:
        raise NotImplementedError


def measured(**given: Any) -> object:
    arguments = {"evaluator": KNN(layers=("conv2",)), "backbone": NIN(IMAGE, num_blocks=3, width=0.05), "data": Digits(), **given}
    return evaluate(**arguments)


def pretrained(**given: Any) -> object:
    arguments = {"task": RotNet(), "backbone": NIN(IMAGE, num_blocks=3, width=0.05), "data": Digits(), **given}
    return pretrain(**arguments)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: TrainingOptions(optimizer="sgd"),  # pyright: ignore[reportArgumentType] - as in all that follow
        "optimizer: must be an object of the class OptimizerFactory or a mapping; found 'sgd'; "
        "a name is for recipes: in Python, pass an object",
    ),
    (
        lambda: TrainingOptions(optimizer={"main": "sgd"}),
        "optimizer.main: must be an object of the class OptimizerFactory; found 'sgd'; a name",
    ),
    (lambda: TrainingOptions(schedule=Cosine), "schedule: must be an object of the class Schedule; found <class"),
    (lambda: TrainingOptions(augment={"crop_padding": 1}), "augment: must be an object of the class Augment; found {'crop_padding': 1}"),
    (lambda: TrainingOptions(epochs=8.0), "epochs: must be an integer; found 8.0"),
    (lambda: TrainingOptions(epochs="8"), "epochs: must be an integer; found '8'"),
    (lambda: TrainingOptions(epochs=True), "epochs: must be an integer; found True"),
    (
        lambda: TrainingOptions(epochs=np.int64(8)),
        f"epochs: must be an integer; found {np.int64(8)!r}; write int(...) around a number of numpy",
    ),
    (lambda: SGD(lr=np.float32(0.5)), f"lr: must be a number; found {np.float32(0.5)!r}; write float(...) around a number of numpy"),
    (
        lambda: SGD(nesterov=np.bool_(True)),
        f"nesterov: must be true or false; found {np.True_!r}; write bool(...) around a number of numpy",
    ),
    (lambda: NIN(IMAGE, num_blocks=np.int64(3)), f"num_blocks: must be an integer; found {np.int64(3)!r}; write int(...)"),
    (lambda: TrainingOptions(clip_grad_norm="1"), "clip_grad_norm: must be a number; found '1'"),
    (lambda: SGD(lr="0.1"), "lr: must be a number; found '0.1'"),
    (lambda: SGD(lr=float("nan")), "lr: must be finite; found nan"),
    (lambda: SGD(nesterov=1), "nesterov: must be true or false; found 1"),
    (lambda: AdamW(betas=(0.9,)), "betas: must be a tuple of 2 values; found (0.9,)"),
    (lambda: AdamW(betas=(0.9, "1")), "betas[1]: must be a number; found '1'"),
    (lambda: MultiStep(milestones=3), "milestones: must be a tuple of numbers; found 3; write (3,)"),
    (lambda: Augment(horizontal_flip=1), "horizontal_flip: must be true or false; found 1"),
    (lambda: Runtime(precision="bf16"), "precision: must be 'auto' or 'bfloat16' or 'float16' or 'tf32' or 'float32'; found 'bf16'"),
    (lambda: Runtime(compile="yes"), "compile: must be true or false or 'auto'; found 'yes'"),
    (lambda: LinearProbe(layers="conv2"), "layers: must be a tuple of strings; found 'conv2'; write ('conv2',)"),
    (lambda: ConvProbe(layers=("conv2", 3)), "layers[1]: must be a string; found 3"),
    (lambda: KNN(layers=("conv2",), k=20.0), "k: must be an integer; found 20.0"),
    (lambda: FineTune(layer=2), "layer: must be a string; found 2"),
    (lambda: SemiSupervised(layers=("conv2",), labels_per_class=5), "labels_per_class: must be a tuple of integers; found 5; write (5,)"),
    (lambda: SemiSupervised(layers=("a",), labels_per_class=(5,), num_subsets=(1.5,)), "num_subsets[0]: must be an integer; found 1.5"),
    (lambda: ImageFolder(root=2024), "root: must be a string; found 2024"),
    (lambda: Digits(image_size=8.0), "image_size: must be an integer; found 8.0"),
    (lambda: Arrays(train_images=np.zeros((4, 8, 8), np.uint8), classes="ab"), "classes: must be a tuple of strings; found 'ab'"),
    (lambda: RotNet(angles="0"), "angles: must be a tuple of numbers; found '0'; write ('0',)"),
    (lambda: NIN(IMAGE, width="0.5"), "width: must be a number; found '0.5'"),
    (lambda: TinyConv(IMAGE, width=4.0), "width: must be an integer; found 4.0"),
    (lambda: Foreign(angles=(0, 90, 180)), "angles: must be a tuple of 2 values; found (0, 90, 180)"),
    (lambda: Foreign(weights={"a": "b"}), "weights.a: must be a number; found 'b'"),
    (lambda: Foreign(mode="slow"), "mode: must be 'fast' or 2; found 'slow'"),
    (lambda: Foreign(optimizer=Cosine()), "optimizer: must be an object of the class SGD or an object of the class AdamW; found Cosine("),
    (lambda: Plain(depth="1"), "depth: must be an integer; found '1'"),
    (lambda: LinearProbe(layers={"conv2"}), "layers: must be a tuple of strings; found {'conv2'}"),
    (lambda: measured(evaluator="knn"), "evaluator: must be an object of the class Evaluator; found 'knn'; a name is for recipes"),
    (lambda: measured(evaluator=KNN), "evaluator: must be an object of the class Evaluator; found <class 'sslkit"),
    (lambda: measured(backbone="runs/a"), "backbone: must be an object of the class Backbone; found 'runs/a'"),
    (lambda: measured(backbone=nn.Linear(1, 1)), "backbone: must be an object of the class Backbone; found Linear("),
    (lambda: measured(seed=np.int64(1)), f"seed: must be an integer; found {np.int64(1)!r}; write int(...) around a number of numpy"),
    (lambda: measured(seed=None), "seed: must be an integer; found None"),
    (lambda: measured(seed=1.5), "seed: must be an integer; found 1.5"),
    (lambda: measured(seed=-1), "seed: is too small; found -1; allowed: 0 or more"),
    (lambda: measured(observers=print), "observers: must be a list of observers; found <built-in function print>"),
    (lambda: pretrained(task="rotnet"), "task: must be an object of the class PretextTask; found 'rotnet'; a name is for recipes"),
    (
        lambda: pretrained(task=RotNet),
        "task: must be an object of the class PretextTask; found <class 'sslkit_rotnet.task.RotNet'>; make an obj",
    ),
    (
        lambda: pretrained(backbone=NIN),
        "backbone: must be an object of the class Backbone; found <class 'sslkit.backbones.nin.NIN'>; make an",
    ),
    (lambda: pretrained(training={"epochs": 1}), "training: must be an object of the class TrainingOptions; found {'epochs': 1}"),
    (lambda: pretrained(evaluate_every="1"), "evaluate_every: must be an integer; found '1'"),
    (lambda: pretrained(evaluate_every=0), "evaluate_every: is too small; found 0; allowed: 1 or more"),
    (lambda: pretrained(seed="1"), "seed: must be an integer; found '1'"),
    (lambda: dataclasses.replace(TrainingOptions(), epochs="9"), "epochs: must be an integer; found '9'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_a_recipe_refuses_is_refused_in_python(make: Callable[[], object], message: str):
    assert refusal(OptionError, make).startswith(message)


def test_what_is_meant_passes():
    assert TrainingOptions(epochs=3, clip_grad_norm=1) == TrainingOptions(epochs=3, clip_grad_norm=1.0)
    assert json.dumps(plain(SGD(lr=np.float64(0.5)))) == json.dumps(plain(SGD(lr=0.5)))  # which is one of Python's, too
    assert list(LinearProbe(layers=["conv2"]).layers) == ["conv2"]
    assert ImageFolder(root=Path("photos")) == ImageFolder(root=Path("photos"))
    assert Foreign(angles=[1, 2], weights={"a": 1}, mode=2, optimizer=AdamW()).mode == 2
    assert Plain(depth=2, note=object()).depth == 2
    assert TrainingOptions(optimizer={"main": SGD()}, schedule=MultiStep(milestones=[1, 2.5]))


def test_objects_are_what_they_were_without_a_door():
    training = TrainingOptions(epochs=2, optimizer=AdamW(lr=0.1))
    assert copy.deepcopy(training) == pickle.loads(pickle.dumps(training)) == dataclasses.replace(training) == training
    assert list(inspect.signature(SGD).parameters) == [
        "lr",
        "weight_decay",
        "final_weight_decay",
        "exclude_norm_and_bias",
        "momentum",
        "nesterov",
    ]
    assert list(inspect.signature(NIN).parameters) == ["image", "num_blocks", "width", "pool_after_conv3"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        TrainingOptions(epoch=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("optimizers", {"name": "sgd", "lr": "0.1"}),
        ("evaluators", {"name": "linear_probe", "layers": "conv2"}),
        ("schedules", {"name": "step", "milestones": 3}),
    ],
)
def test_a_recipe_keeps_its_own_words(kind: str, table: dict[str, Any]):
    with pytest.raises(Exception, match=r"^x\.\w+: must be (a number|an array of \w+); found "):
        build(kind, table, "x", load_catalog())
