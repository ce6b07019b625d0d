"""The machine: which device, which precision, which allocator; good automatic values, each of which a recipe can set."""

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
from typing import Literal, final

import torch

from sslkit.contract.annotations import Checked
from sslkit.contract.errors import OptionError
from sslkit.training.tf32 import tf32

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


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the names of Linux; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def _devices() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def _cpuinfo(key: str) -> str:
    """One field of the first processor in Linux' /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
