"""The memory through which processes hand each other tensors: containers often have little of it."""

import shutil
import sys
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")


def num_fitting(num_bytes: int) -> int:
    """How many tensors of this size it has room for now."""
    if not _SHARED_MEMORY.is_dir():
        return sys.maxsize  # macOS and Windows have no such limit
    return shutil.disk_usage(_SHARED_MEMORY).free // max(1, num_bytes)


def describe_shared_memory() -> str:
    """How much there is, and how much of it is free."""
    if not _SHARED_MEMORY.is_dir():
        return "of unknown size"
    usage = shutil.disk_usage(_SHARED_MEMORY)
    return f"{_SHARED_MEMORY}: {megabytes(usage.total)}, {megabytes(usage.free)} free"


def megabytes(num_bytes: int) -> str:
    """A size in words."""
    return f"{num_bytes / 2**20:,.0f} MiB"
