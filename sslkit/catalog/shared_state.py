"""State that all code of a process shares and results depend on: kept as it is while other people's code is loaded."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

_CHANGES: WeakKeyDictionary[ModuleType, tuple[str, ...]] = WeakKeyDictionary()


@contextmanager
def kept_state() -> Iterator[list[str]]:
    """Restore what changes inside: torch's defaults, threads, flags of determinism and precision, global generators, the working
    directory. The list that it yields afterwards names everything that was restored.
    """
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                write(before[name])
                changed.append(name)


@contextmanager
def loading(module: str) -> Iterator[list[str]]:
    """:func:`kept_state` while a module is loaded. Python loads it once per process, so what was restored then is listed every time."""
    changed: list[str] = []
    try:
        with kept_state() as changed:
            yield changed
    finally:
        changed[:] = dict.fromkeys((*changes_of(module), *changed))
        if loaded := sys.modules.get(module):
            _CHANGES[loaded] = tuple(changed)


def changes_of(module: str) -> tuple[str, ...]:
    """What was restored after a module was loaded, in the names that messages use."""
    loaded = sys.modules.get(module)
    return () if loaded is None else _CHANGES.get(loaded, ())


def _default_device() -> str | None:
    """None where nobody has set one. Setting the CPU would not be the same, as each call of torch would then look it up."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001 - torch has no public name for it
    return None if context is None else str(context.device)


def _matmul_precision() -> str:
    with suppress(RuntimeError):  # somebody set one of the newer switches
        return torch.get_float32_matmul_precision()
    return ""


def _folder() -> str:
    with suppress(OSError):  # it was removed
        return os.getcwd()  # noqa: PTH109 - as os.chdir takes it back
    return ""


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (_default_device, torch.set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "cuDNN's flags": (
        lambda: {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")},
        lambda flags: [setattr(torch.backends.cudnn, name, value) for name, value in flags.items()],
    ),
    "torch's precision of products": (_matmul_precision, lambda value: value and torch.set_float32_matmul_precision(value)),
    "torch's autocast": (
        lambda: {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")},
        lambda enabled: [torch.set_autocast_enabled(kind, value) for kind, value in enabled.items()],
    ),
    "torch's gradient mode": (torch.is_grad_enabled, torch._C._set_grad_enabled),  # noqa: SLF001
    # Torch does not tell, but the processor's setting holds for Python too: half of the smallest normal number is 0.
    "the flushing of denormal numbers": (lambda: sys.float_info.min / 2 == 0.0, torch.set_flush_denormal),
    "torch's global generator": (
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda value: torch.set_rng_state(torch.frombuffer(bytearray(value), dtype=torch.uint8)),
    ),
    "numpy's global generator": (
        lambda: tuple(part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()),  # noqa: NPY002 - the one that others draw from
        np.random.set_state,
    ),
    "Python's global generator": (random.getstate, random.setstate),
    "the working directory": (_folder, lambda value: value and os.chdir(value)),
}
"""What it is called in messages, and how it is read and restored. What is read must be comparable."""

GENERATORS = frozenset(name for name in _SETTINGS if name.endswith("global generator"))
