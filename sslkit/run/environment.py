"""What belongs beside a result: hardware, versions, commit, command and date."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sslkit.training.device import describe_device

_PACKAGES = ("torchvision", "timm", "numpy", "safetensors", "pluggy", "pydantic")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What is computed with, now.

    Args:
        device: where.
    """
    return {
        "started": timestamp(),
        "command": sys.argv,
        "commit": checkout_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": {"sslkit": version("sslkit"), "torch": torch.__version__, **{name: version(name) for name in _PACKAGES}},
    }


def timestamp() -> str:
    """Date and time in UTC, to the second, as ISO 8601 has them."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def checkout_commit() -> str:
    """The commit of sslkit's own checkout, with ``-dirty`` where files differ from it. For an installed wheel, what the environment
    variable ``SSLKIT_COMMIT`` says that it was built from, or nothing.

    Asked once: what is loaded stays what it was when a checkout moves on.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return os.environ.get("SSLKIT_COMMIT", "")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that belongs to somebody else
        return ""
