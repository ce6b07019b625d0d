"""Labelled images in memory, a network and a context: what an evaluator needs, to run in a moment."""

from typing import Any

import torch
from torch import Tensor, nn

from sslkit import Arrays, Backbone, LabeledData, RunContext
from sslkit.contract.events import Event, StepEnd
from sslkit.evaluators.views import ClassifierOptions
from sslkit.training.seeds import global_seed
from tests.contract.contexts import make_context
from tests.contract.miniatures.backbones import TinyConv

CPU = torch.device("cpu")
NUM_CLASSES = 3


def arrays(num_train: int = 30, num_test: int = 15, *, size: int = 8) -> Arrays:
    """Noise in three colours; class c is brighter in channel c. Classes take turns."""
    train, train_labels = _images(num_train, size, seed=0)
    test, test_labels = _images(num_test, size, seed=1)
    return Arrays(train_images=train, train_labels=train_labels, test_images=test, test_labels=test_labels)


def labeled(data: Arrays | None = None) -> LabeledData:
    data = data or arrays()
    return LabeledData(data.load("train"), data.load("test"))


def network(kind: type[Backbone] = TinyConv, *, seed: int = 0, **options: Any) -> Backbone:
    with global_seed(seed):
        return kind(arrays().image(), **options)


def context(**options: Any) -> RunContext:
    return make_context(**{"stage": "probe", **options})


def training(**options: Any) -> ClassifierOptions:
    return ClassifierOptions(**{"epochs": 2, "batch_size": 8, **options})


class Steps:
    """Counts optimizer steps, and asks to stop after so many of them.

    ``context(**steps.watch)`` makes it listen.
    """

    def __init__(self, limit: float = float("inf")) -> None:
        self.taken = 0
        self.watch: dict[str, Any] = {"emit": self._note, "should_stop": lambda: self.taken >= limit}

    def _note(self, event: Event) -> None:
        self.taken += isinstance(event, StepEnd)


def images_through(backbone: Backbone) -> list[int]:
    """The sizes of all batches that ``backbone`` or a copy of it will be given from now on: copies share the hook, and its list."""
    sizes: list[int] = []
    backbone.stem.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    return sizes


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's state, which later training does not change."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """The names of the parameters and buffers that are no longer bit-identical."""
    after = module.state_dict()
    assert after.keys() == before.keys()
    return [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]


def _images(num_images: int, size: int, *, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(num_images) % NUM_CLASSES
    pixels = torch.randint(0, 128, (num_images, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    pixels[torch.arange(num_images), labels] += 100
    return pixels, labels
