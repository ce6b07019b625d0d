"""What belongs beside every figure: the machine, the versions, the commit, the date."""

import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from sslkit.contract.runtime import Runtime, cpu_flags
from sslkit.run.environment import checkout_commit
from sslkit.training.device import describe_device

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Of a CPU: what convolutions and bfloat16 live on."""

_PACKAGES = ("sslkit", "torchvision", "timm", "lightly", "kornia", "numpy")


def describe_environment() -> dict[str, Any]:
    """JSON-able facts. No name of the machine and none of its folders."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "device": describe_device(Runtime().resolve_device()),
        "cpu": describe_device(torch.device("cpu")),
        "flags": [flag for flag in _FLAGS if flag in cpu_flags()],
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "c_compiler": any(shutil.which(name) for name in ("cc", "gcc", "clang")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"torch": torch.__version__, **{name: _version(name) for name in _PACKAGES}},
    }


def describe_in_a_line(environment: dict[str, Any]) -> str:
    """The least that must stand under a table."""
    versions = environment["versions"]
    device, flags = environment["device"], f" ({' '.join(environment['flags'])})" if environment["flags"] else ""
    commit = environment["commit"] or "no commit"
    return f"{device}{flags}; torch {versions['torch']}, sslkit {versions['sslkit']} {commit}, {environment['date'][:10]}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
