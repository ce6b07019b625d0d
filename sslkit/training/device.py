"""The machine: what torch holds as global state, the allocator, the hardware's name, and what it breaks down on, in words that help."""

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, cast

import torch

from sslkit.contract.errors import OptionError, RunFailedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.runtime import Runtime, cpuinfo

_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG"
_REPRODUCIBLE = (":4096:8", ":16:8")
"""Sizes and numbers of work spaces with which cuBLAS gives the same bits every time."""


def autocast_of(context: RunContext) -> torch.autocast:
    """What a forward pass runs under."""
    # Not cached: before torch 2.11, weights that a teacher's pass without gradient had cast first got none in the student's.
    return torch.autocast(context.device.type, dtype=context.autocast, enabled=context.autocast is not None, cache_enabled=False)


@contextmanager
def configured(runtime: Runtime, device: torch.device) -> Iterator[None]:
    """Apply what torch keeps as global state for a stage, then restore it and discard what was compiled.

    An ``OptionError`` where the environment rules out ``deterministic``.
    """
    with ExitStack() as stack:
        if device.type == "cpu" and runtime.keep_memory:
            keep_freed_memory()
        if device.type == "cuda":
            _prepare_cuda(runtime, device, stack)
        stack.enter_context(tf32(allowed=runtime.precision == "tf32" and device.type == "cuda"))
        enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if runtime.deterministic or enabled:  # else left alone because torch would import its compiler to change it
            stack.callback(torch.use_deterministic_algorithms, enabled, warn_only=warn_only)
            torch.use_deterministic_algorithms(runtime.deterministic)
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = not runtime.deterministic
        if runtime.resolve_compile(device):
            stack.callback(_forget_compiled)
        yield


def _forget_compiled() -> None:
    """Torch compiles a function for 8 networks and then silently runs it uncompiled: a sweep would get there."""
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the compiler takes seconds to import
        torch.compiler.reset()


def _prepare_cuda(runtime: Runtime, device: torch.device, stack: ExitStack) -> None:
    # Read once, at the first product in this process: a later stage may be deterministic where this one is not.
    workspaces = os.environ.setdefault(_WORKSPACES, _REPRODUCIBLE[0])
    if runtime.deterministic and workspaces not in _REPRODUCIBLE:
        raise OptionError("deterministic", f"needs another {_WORKSPACES} in the environment", found=workspaces, allowed=_REPRODUCIBLE)
    stack.enter_context(torch.cuda.device(device))  # what takes no device, such as pinned memory, would use the first GPU
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)  # torch.compile advises what precision rules out


@cache
def keep_freed_memory() -> bool:
    """Keep glibc from returning pages to the system after every step, which the next would fault in again; False where it cannot be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(top_pad, 100_000_000)])


def describe_device(device: torch.device) -> str:
    """The name to report with every result: the GPU's, or the CPU's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = cpuinfo("model name") or platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions of float32, or forbid it; then put back what was set.

    torch allows it in convolutions by default, whatever ``set_float32_matmul_precision`` says.

    Since torch 2.9 there are newer switches, ``fp32_precision``. Setting an old one sets the newer ones with it; setting a newer one
    leaves the old as it was, and ``torch.compile``, which reads both, then fails. So the old ones are what is set here.
    """
    matmul, convolution, newer, backends = "highest", True, [], cast("Any", torch.backends)
    with suppress(RuntimeError):  # a newer switch was set; then the old one has its default
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = backends.cudnn.allow_tf32
    with suppress(AttributeError):  # there are none before torch 2.9
        switches = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
        newer = [(switch, switch.fp32_precision) for switch in switches]
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    if not allowed:  # to the old switch of convolutions that means: as torch.backends.fp32_precision says
        for switch, _ in newer:
            switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        for switch, value in newer:
            switch.fp32_precision = value


_SHORTAGE = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN's, when none of its algorithms gets its work space
    "Unable to find a valid cuDNN algorithm",
)
_NOT_DETERMINISTIC = " does not have a deterministic implementation"
_FAILED_KERNEL = "CUDA error: "


@contextmanager
def explaining_breakdown(work: str, device: torch.device) -> Iterator[None]:
    """Raise a ``RunFailedError`` of one line, which says what to do, where memory runs out, a kernel fails or is not deterministic though
    it must be, or BatchNorm is given a single value. ``work`` says what was being done, with the sizes that decide how much memory it takes.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _shortage(work, device) from error
    except ValueError as error:
        if "Expected more than 1 value per channel when training" not in str(error):
            raise
        raise RunFailedError(f"BatchNorm cannot normalise one value per channel in {work}", fix="raise batch_size to 2 or more") from error
    except RuntimeError as error:
        if (explained := _explain(str(error), work, device)) is None:
            raise
        raise explained from error


def _shortage(work: str, device: torch.device) -> RunFailedError:
    fix = "lower batch_size or image_size, or take a smaller backbone; checkpoints are kept"
    return RunFailedError(f"out of memory on {device} in {work}", fix=fix)


def _explain(text: str, work: str, device: torch.device) -> RunFailedError | None:
    if any(sign in text for sign in _SHORTAGE):  # torch has an exception class for GPUs alone, and the libraries below it have none
        return _shortage(work, device)
    if _NOT_DETERMINISTIC in text:
        operation = text.partition(_NOT_DETERMINISTIC)[0].split()[-1]
        return RunFailedError(f"{operation} has no deterministic kernel on {device}, in {work}", fix="set deterministic = false there")
    if _WORKSPACES in text:
        return RunFailedError(
            f"deterministic matrix products are not available on {device} any more, in {work}: this process has multiplied there before",
            fix=f"set {_WORKSPACES}={_REPRODUCIBLE[0]} in the environment",
        )
    if "DataLoader worker (pid" in text:  # torch raises it out of a signal handler: for any loader, in the middle of anything
        return RunFailedError(
            f"a process of a torch DataLoader died, which the system ends when memory is short, in {work}",
            fix="the same command resumes from the last checkpoint; lower the number of workers if it happens again",
        )
    if _FAILED_KERNEL in text:  # is reported later, anywhere: the traceback shows unrelated code
        reason = text.partition(_FAILED_KERNEL)[2].splitlines()[0]
        return RunFailedError(
            f"{device} failed in {work}: {reason}",
            fix='often an index or a label out of range, which device = "cpu" names; checkpoints are kept',
        )
    return None
