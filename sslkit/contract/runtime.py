"""How a stage computes: device, precision and the like; good automatic values, each of which a recipe can set."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, final

import torch

from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError

_TYPES = ("cpu", "cuda", "mps", "xpu")

MAX_WORKERS = 256
"""More is a slip of the finger."""


@final
@dataclass(frozen=True, kw_only=True)
class Runtime(Checked):
    """How to compute. Set once at the top of a recipe, or in a stage.

    Attributes:
        device: ``auto`` (cuda, then mps, then cpu), or a torch device (``cuda:1``).
        precision: ``auto`` (bfloat16 autocast where the hardware has it, else float16 on a GPU that has that, else float32),
            ``bfloat16``, ``float16`` (autocast with a scaled loss), ``tf32`` (float32, but products in TF32 on NVIDIA GPUs that have it)
            or ``float32`` (in full, everywhere). What autocast leaves alone is float32 in full.
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
    precision: Literal["auto", "bfloat16", "float16", "tf32", "float32"] = "auto"
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
            raise OptionError("num_workers", "is not a number of processes", found=self.num_workers, allowed=f"0 to {MAX_WORKERS}")
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
        if self.precision == "auto":
            return torch.bfloat16 if has_bfloat16(device) else torch.float16 if has_float16(device) else None
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.precision)

    def resolve_compile(self, device: torch.device) -> bool:
        """Whether to compile: on a CPU it does not pay for convolutional networks."""
        return device.type == "cuda" if self.compile == "auto" else self.compile


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """For what an ``argmax`` or a comparison is taken of: logits in bfloat16 tie, and a tie is an answer by chance.

    Within it operations compute in the dtype of what they are given: give them float32.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)  # torch has no autocast for meta


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 faster than in float32."""
    if device.type == "cuda":  # is_bf16_supported() would ask the current device, which may be another
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def has_float16(device: torch.device) -> bool:
    """Whether ``device`` computes in float16 faster than in float32: Apple's GPUs, and NVIDIA's since Volta."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (7, 0)
    return device.type == "mps"


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the names of Linux; empty elsewhere."""
    return frozenset(cpuinfo("flags").split())


def _devices() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


@cache
def cpuinfo(key: str) -> str:
    """One field of the first processor in Linux' /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
