"""The machine: which device, which precision, which allocator, each of which a recipe can set; and what it breaks down on, in words that help."""

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, final

import torch

from sslkit.contract.annotations import Checked
from sslkit.contract.errors import OptionError, RunFailedError
from sslkit.contract.evaluator import RunContext

_TYPES = ("cpu", "cuda", "mps", "xpu")

MAX_WORKERS = 256
"""More is a slip of the finger."""

_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG"
_REPRODUCIBLE = (":4096:8", ":16:8")
"""Sizes and numbers of work spaces with which cuBLAS gives the same bits every time."""


@final
@dataclass(frozen=True, kw_only=True)
class Runtime(Checked):
    """How to compute. Set once at the top of a recipe, or in a stage.

    Attributes:
        device: ``auto`` (cuda, then mps, then cpu), or a torch device (``cuda:1``).
        precision: ``auto`` (bfloat16 autocast where the hardware has it, else float32), ``bfloat16``, ``tf32`` (float32, but products
            in TF32 on NVIDIA GPUs that have it) or ``float32`` (in full, everywhere). What autocast leaves alone is float32 in full.
        compile: compile the objective's forward pass; ``auto``: on CUDA.
        cuda_graphs: record the compiled pass once and replay it, which saves launches; on CUDA, for views of a fixed size.
        deterministic: only deterministic kernels, which may be slower.
        channels_last: keep convolution weights in channels_last memory format.
        num_workers: processes that decode images which memory does not hold; 0: the run's own; ``auto``: one a core, 8 at most, and as
            many as shared memory has room for.
        keep_memory: tell glibc's allocator to keep freed pages: 1.6 times the speed on a CPU, for more resident memory.
        log_every: read and log training metrics every so many steps.
        checkpoint_minutes: write a checkpoint that often, besides the one at the end.
        keep_checkpoints: so many of a fit stay, until its stage is finished; should the newest be damaged, the one before is used.
    """

    device: str = "auto"
    precision: Literal["auto", "bfloat16", "tf32", "float32"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    cuda_graphs: bool = False
    deterministic: bool = False
    channels_last: bool = True
    num_workers: int | Literal["auto"] = "auto"
    keep_memory: bool = True
    log_every: int = 50
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if self.num_workers != "auto" and not 0 <= self.num_workers <= MAX_WORKERS:
            raise OptionError("num_workers", "is no number of processes", found=self.num_workers, allowed=f"0 to {MAX_WORKERS}")
        if self.log_every < 1:
            raise OptionError("log_every", "must be positive", found=self.log_every, allowed="1 or more steps")
        if self.checkpoint_minutes < 0:
            raise OptionError("checkpoint_minutes", "must not be negative", found=self.checkpoint_minutes, allowed="0 (every step) or more")
        if self.keep_checkpoints < 1:
            raise OptionError("keep_checkpoints", "must be positive", found=self.keep_checkpoints, allowed="1 or more")

    def resolve_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            OptionError: it does not exist on this machine.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
        problem = "is not usable on this machine"
        if self.device.partition(":")[0] not in _TYPES:  # some of torch's other names compute nothing, import or warn
            raise OptionError("device", problem, found=self.device, allowed=_devices())
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise OptionError("device", problem, found=self.device, allowed=_devices()) from error
        return device

    def resolve_autocast(self, device: torch.device) -> torch.dtype | None:
        """The dtype of autocast on ``device``, or None for float32."""
        wanted = has_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"
        return torch.bfloat16 if wanted else None

    def resolve_compile(self, device: torch.device) -> bool:
        """Whether to compile: on a CPU it does not pay for convolutional networks."""
        return device.type == "cuda" if self.compile == "auto" else self.compile


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 faster than in float32."""
    if device.type == "cuda":  # is_bf16_supported() would ask the current device, which may be another
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def autocast_of(context: RunContext) -> torch.autocast:
    """What a forward pass runs under."""
    # Not cached: before torch 2.11, weights that a teacher's pass without gradient had cast first got none in the student's.
    return torch.autocast(context.device.type, dtype=context.autocast, enabled=context.autocast is not None, cache_enabled=False)


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
        enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if runtime.deterministic or enabled:  # else left alone: torch would import its compiler to tell it
            stack.callback(torch.use_deterministic_algorithms, enabled, warn_only=warn_only)
            torch.use_deterministic_algorithms(runtime.deterministic)
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = not runtime.deterministic
        if runtime.resolve_compile(device):
            stack.callback(_forget_compiled)
        yield


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
    """A name that belongs beside every result: the GPU's, or the CPU's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the names of Linux; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def _devices() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


@cache
def _cpuinfo(key: str) -> str:
    """One field of the first processor in Linux' /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions of float32, or forbid it; then put back what was set.

    torch allows it in convolutions by default, whatever ``set_float32_matmul_precision`` says.

    Since torch 2.9 there are newer switches, ``fp32_precision``. Setting an old one sets the newer ones with it; setting a newer one
    leaves the old as it was, and ``torch.compile``, which reads both, then fails. So the old ones are what is set here.
    """
    matmul, convolution, newer = _matmul(), _convolution(), [(switch, switch.fp32_precision) for switch in _newer_switches()]
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


def _matmul() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody set a newer switch; then the old one is at its default
        return "highest"


def _convolution() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True


def _newer_switches() -> list[Any]:
    """All that the old ones move; none before torch 2.9."""
    backends: Any = torch.backends
    try:
        return [backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    except AttributeError:
        return []


_SHORTAGE = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN's, when none of its algorithms gets its work space
    "Unable to find a valid cuDNN algorithm",
)
_NOT_DETERMINISTIC = " does not have a deterministic implementation"
_CUBLAS_BEGAN_EARLIER = "CUBLAS_WORKSPACE_CONFIG"
_FAILED_KERNEL = "CUDA error: "
_DEAD_WORKER = "DataLoader worker (pid"
"""Torch raises this out of a signal handler: for anybody's loader, in the midst of anything."""
_NO_VARIANCE = "Expected more than 1 value per channel when training"


@contextmanager
def explaining_breakdown(work: str, device: torch.device) -> Iterator[None]:
    """Turn what a device refuses into one line that says what to do.

    Args:
        work: what was being done, with the sizes that decide how much memory it takes.
        device: where.

    Raises:
        RunFailedError: memory did not suffice, an operation has no deterministic kernel and needs one, a kernel failed, or BatchNorm
            was given a single value.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _shortage(work, device) from error
    except ValueError as error:
        if _NO_VARIANCE not in str(error):
            raise
        raise RunFailedError(f"BatchNorm cannot normalise one value a channel in {work}", fix="raise batch_size to 2 or more") from error
    except RuntimeError as error:
        explained = _explain(str(error), work, device)
        if explained is None:
            raise
        raise explained from error


def _shortage(work: str, device: torch.device) -> RunFailedError:
    return RunFailedError(
        f"out of memory on {device} in {work}", fix="lower batch_size or image_size, or take a smaller backbone; checkpoints are kept"
    )


def _explain(text: str, work: str, device: torch.device) -> RunFailedError | None:
    if any(sign in text for sign in _SHORTAGE):  # torch has a class of its own for GPUs alone, and libraries beneath it have none
        return _shortage(work, device)
    if _NOT_DETERMINISTIC in text:
        operation = text.partition(_NOT_DETERMINISTIC)[0].split()[-1]
        return RunFailedError(f"{operation} has no deterministic kernel on {device}, in {work}", fix="set deterministic = false there")
    if _CUBLAS_BEGAN_EARLIER in text:
        return RunFailedError(
            f"deterministic products are not to be had on {device} any more, in {work}: this process has multiplied there before",
            fix="set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment",
        )
    if _DEAD_WORKER in text:
        return RunFailedError(
            f"a process of a torch DataLoader died, as the system does to one when memory is short, in {work}",
            fix="the same command resumes from the last checkpoint; lower the number of workers if it happens again",
        )
    if _FAILED_KERNEL in text:  # is reported later, anywhere: the traceback shows innocent code
        reason = text.partition(_FAILED_KERNEL)[2].splitlines()[0]
        return RunFailedError(
            f"{device} failed in {work}: {reason}",
            fix='often an index or a label out of range, which device = "cpu" names; checkpoints are kept',
        )
    return None
