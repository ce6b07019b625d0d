"""Where and how a stage runs, and what is written down of that beside its result: hardware, versions, commit, command and date."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sslkit.catalog.observers import Observers
from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError
from sslkit.contract.events import Observer
from sslkit.contract.runtime import Runtime
from sslkit.run.artifacts import BackboneRecord
from sslkit.training.device import describe_device

_PACKAGES = ("torchvision", "timm", "numpy", "safetensors", "pluggy", "pydantic")


@dataclass(frozen=True)
class Provenance:
    """Where a stage's backbone comes from, for its fingerprint and its artifact. A recipe gives it; objects made in Python have none.

    Attributes:
        record: how to build the backbone again.
        weights: ``random``, or the fingerprint of the stage that left them.
        code: that decides the outcome, as :class:`~sslkit.catalog.source_code.SourceCode` knows it.
        environment: what belongs beside the result besides hardware and versions: plugins.
        extended: whether the training of the stage that left the weights was extended.
    """

    record: BackboneRecord
    weights: str
    code: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    extended: bool = False


@dataclass(frozen=True, kw_only=True)
class Surroundings(Checked):
    """Where and how a stage runs.

    Attributes:
        name: of the stage; part of every random seed.
        output: the stage's folder: checkpoints, metrics, the artifact. A finished stage in it is not repeated, an interrupted one is
            resumed. None keeps nothing.
        seed: of all randomness, 0 or more.
        runtime: device, precision and the like.
        observers: are notified of every event.
        should_stop: asked after every step, and after every batch that is only measured.
        key: what events call the stage, where a sweep has several of one name; empty: its name.
        provenance: where the backbone comes from.
        extend: continue what is finished, or has diverged, with more epochs.
    """

    name: str
    output: str | Path | None = None
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)
    observers: Iterable[Observer] | Observers = ()
    should_stop: Callable[[], bool] | None = None
    key: str = ""
    provenance: Provenance | None = None
    extend: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise OptionError("seed", "is too small", found=self.seed, allowed="0 or more")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What is computed with, now."""
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
