"""The machine: what torch holds as global state, the allocator, and the name of the hardware."""

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch

from sslkit.contract.errors import OptionError
from sslkit.contract.runtime import Runtime, cpuinfo
from sslkit.training.tf32 import tf32

_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG"
_REPRODUCIBLE = (":4096:8", ":16:8")
"""Sizes and numbers of work spaces with which cuBLAS gives the same bits every time."""


@contextmanager
def configured(runtime: Runtime, device: torch.device) -> Iterator[None]:
    """Apply what torch holds as global state for the time of a stage, and put it back. What was compiled in it is forgotten.

    Raises:
        OptionError: the environment stands against ``deterministic``.
    """
    with ExitStack() as stack:
        if device.type == "cpu" and runtime.keep_memory:
            keep_freed_memory()
        if device.type == "cuda":
            _prepare_cuda(runtime, device, stack)
        stack.enter_context(tf32(allowed=runtime.precision == "tf32" and device.type == "cuda"))
        _set_deterministic(runtime.deterministic, stack)
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = not runtime.deterministic
        if runtime.resolve_compile(device):
            stack.callback(_forget_compiled)
        yield


def _set_deterministic(wanted: bool, stack: ExitStack) -> None:
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted or enabled:  # else left alone: torch would import its compiler to tell it
        stack.callback(torch.use_deterministic_algorithms, enabled, warn_only=warn_only)
        torch.use_deterministic_algorithms(wanted)


def _forget_compiled() -> None:
    """Torch compiles a function for 8 networks, and after that runs it uncompiled without a word: a sweep would get there."""
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the compiler takes seconds to import
        torch.compiler.reset()


def _prepare_cuda(runtime: Runtime, device: torch.device, stack: ExitStack) -> None:
    # Read once, at the first product in this process: a later stage may be deterministic where this one is not.
    workspaces = os.environ.setdefault(_WORKSPACES, _REPRODUCIBLE[0])
    if runtime.deterministic and workspaces not in _REPRODUCIBLE:
        problem = f"needs another {_WORKSPACES} in the environment"
        raise OptionError("deterministic", problem, found=workspaces, allowed=_REPRODUCIBLE)
    stack.enter_context(torch.cuda.device(device))  # what takes no device, as pinned memory, would be of the first GPU
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)  # torch.compile advises what precision rules out


@cache
def keep_freed_memory() -> bool:
    """Tell glibc not to give pages back to the system after every step, where a step would fault them in again.

    Returns:
        Whether the C library took the setting (glibc only).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(top_pad, 100_000_000)])


def describe_device(device: torch.device) -> str:
    """A name that belongs beside every figure: the GPU's, or the CPU's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    return cpuinfo("model name") or platform.processor() or platform.machine()
