"""What all code of a process shares and results depend on: kept as it is while other people's code is loaded."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch


class _Setting(NamedTuple):
    """One of them: what messages call it, and how it is read and put back. What is read must be comparable."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextmanager
def kept_state() -> Iterator[list[str]]:
    """Put back what changes inside: torch's defaults, threads, flags of determinism and precision, global generators, the folder.

    Yields:
        A list that afterwards holds the name of everything that was put back.
    """
    before = [setting.read() for setting in _SETTINGS]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for setting, value in zip(_SETTINGS, before, strict=True):
            if setting.read() != value:
                setting.write(value)
                changed.append(setting.name)


@contextmanager
def loading(module: str) -> Iterator[list[str]]:
    """:func:`kept_state` while a module is loaded. Python does that once a process, so what was put back then is told each time."""
    changed: list[str] = []
    try:
        with kept_state() as changed:
            yield changed
    finally:
        changed[:] = dict.fromkeys((*changes_of(module), *changed))
        if loaded := sys.modules.get(module):
            _CHANGES[loaded] = tuple(changed)


def changes_of(module: str) -> tuple[str, ...]:
    """What was put back after a module was loaded, by the names of messages."""
    loaded = sys.modules.get(module)
    return () if loaded is None else _CHANGES.get(loaded, ())


_CHANGES: WeakKeyDictionary[ModuleType, tuple[str, ...]] = WeakKeyDictionary()


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as os.chdir takes it back
    except OSError:  # it was removed
        return ""


def _default_device() -> str | None:
    """None where nobody has set one: to set the CPU would not be the same, as each call of torch would ask for it."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001 - torch has no public name for it
    return None if context is None else str(context.device)


def _set_deterministic(value: tuple[bool, bool]) -> None:
    enabled, warn_only = value
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _cudnn() -> dict[str, bool]:
    return {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}


def _set_cudnn(flags: dict[str, bool]) -> None:
    for name, value in flags.items():
        setattr(torch.backends.cudnn, name, value)


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody set one of the newer switches
        return ""


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


def _set_autocast(enabled: tuple[bool, ...]) -> None:
    for kind, value in zip(("cpu", "cuda"), enabled, strict=True):
        torch.set_autocast_enabled(kind, value)


def _flushes_denormals() -> bool:
    """Torch does not tell, but the processor's setting holds for Python too."""
    smallest = 5e-324
    return smallest * float(len("x")) == 0.0


def _numpy_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the one that others draw from
    return (name, np.asarray(keys).tobytes(), *rest)


def _set_numpy_state(value: tuple[Any, ...]) -> None:
    name, keys, *rest = value
    np.random.set_state((name, np.frombuffer(keys, dtype=np.uint32), *rest))  # noqa: NPY002


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _set_torch_state(value: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(value), dtype=torch.uint8))


_SETTINGS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", _default_device, torch.set_default_device),
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting(
        "torch's deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    _Setting("cuDNN's flags", _cudnn, _set_cudnn),
    _Setting("torch's precision of products", _matmul_precision, lambda value: value and torch.set_float32_matmul_precision(value)),
    _Setting("torch's autocast", _autocast, _set_autocast),
    _Setting("torch's gradient mode", torch.is_grad_enabled, torch._C._set_grad_enabled),  # noqa: SLF001
    _Setting("the flushing of denormal numbers", _flushes_denormals, torch.set_flush_denormal),
    _Setting("torch's global generator", _torch_state, _set_torch_state),
    _Setting("numpy's global generator", _numpy_state, _set_numpy_state),
    _Setting("Python's global generator", random.getstate, random.setstate),
    _Setting("the working directory", _folder, lambda value: value and os.chdir(value)),
)

GENERATORS = frozenset(setting.name for setting in _SETTINGS if setting.name.endswith("global generator"))
"""Whoever draws moves them."""
