"""A promise that is kept or broken, and the ones that several kinds of classes make."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone

_PLAIN = (bool, int, float, str, tuple, list, dict)
"""What an option without annotation would hold."""

SEEDED = "the seed must decide the weights: draw them from torch's global generator alone"


class BrokenPromiseError(AssertionError):
    """The message is the promise, and how it was broken."""


def require(kept: object, promise: str) -> None:
    """Raise unless ``kept`` is true."""
    if not kept:
        raise BrokenPromiseError(promise)


@contextmanager
def promises_of(value: object) -> Iterator[None]:
    """Put the name of a class before the promises that it breaks."""
    try:
        yield
    except BrokenPromiseError as error:
        raise BrokenPromiseError(f"{type(value).__name__}: {error}") from error.__cause__


def check_options(cls: type) -> None:
    """Options are the annotated, keyword-only fields of a frozen dataclass."""
    params = [vars(base)["__dataclass_params__"] for base in cls.__mro__ if "__dataclass_params__" in vars(base)]  # a base may have none
    frozen = all(param.frozen for param in params)
    require(dataclasses.is_dataclass(cls) and frozen, "must be a @dataclass(frozen=True, kw_only=True)")
    annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    for name, value in vars(cls).items():
        hidden = name.startswith("_") or name in annotated or not isinstance(value, _PLAIN)
        require(hidden, f"{name} has no annotation, so it is no option: annotate it, as a ClassVar if it is none")
    for field in dataclasses.fields(cls):
        require(field.kw_only or not field.init, f"the option {field.name} must be keyword-only: @dataclass(frozen=True, kw_only=True)")


def check_requirements(requires: frozenset[str], backbone: Backbone) -> None:
    """The backbone to test with must be one that can be tested with."""
    missing = ", ".join(sorted(requires - backbone.capabilities))
    require(not missing, f"requires {missing}, which {type(backbone).__name__} does not have: pass another backbone=...")


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and persistent buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def check_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], promise: str) -> None:
    """Two states must have the same bits."""
    different = [name for name in expected if name not in found or not torch.equal(found[name], expected[name])]
    require(not different and len(found) == len(expected), f"{promise}; {', '.join(different) or 'the names'} differ")


def load_state(module: nn.Module, state: Mapping[str, Tensor], promise: str) -> None:
    """A state must fit a module that was built in the same way."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BrokenPromiseError(f"{promise}; {' '.join(str(error).split())}") from error
