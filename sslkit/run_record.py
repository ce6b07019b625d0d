"""What a figure needs beside it: the resolved recipe, and the environment it was computed in."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch

from sslkit.artifacts import write_json, write_text
from sslkit.engine.device import describe_device
from sslkit.events import Event, Observer, StageStart
from sslkit.kernels.batch_norm_relu import describe_kernels
from sslkit.recipe import Recipe


class RunRecord(Observer):
    """Writes what was run, and on what, when a stage begins to compute: a start that is refused, or that finds everything finished,
    must not change what stands beside the figures of an earlier one.

    Args:
        folder: the run's folder.
        recipe: what is run.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe

    def observe(self, event: Event) -> None:
        """See :class:`Observer`."""
        if isinstance(event, StageStart):
            write_recipe(self._folder, self._recipe)
            write_json(self._folder / "environment.json", _environment(self._recipe))


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the resolved recipe; where it has a sweep, the recipe as it is, and each variant's resolved one."""
    write_text(folder / "recipe.toml", tomli_w.dumps(dict(recipe.table)))
    for name, table in recipe.variants.items():
        write_text(folder / "variants" / f"{name}.toml", tomli_w.dumps(dict(table)))


def _environment(recipe: Recipe) -> dict[str, Any]:
    """What a figure needs beside it: hardware, versions, date, command."""
    packages = ("torchvision", "timm", "numpy", "safetensors", "pluggy", "pydantic")
    plugins = {name: number for versions in recipe.versions.values() for name, number in versions.items()}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": checkout_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": sorted({describe_device(stage.runtime.resolve_device()) for stage in recipe.stages}),
        "threads": torch.get_num_threads(),
        "cpu_kernels": describe_kernels(),
        "versions": {"sslkit": version("sslkit"), "torch": torch.__version__, **{name: version(name) for name in packages}},
        "plugins": plugins,
        "code": recipe.code.as_json(),
    }


def checkout_commit() -> str:
    """The commit of sslkit's own checkout, with ``-dirty`` where files differ from it. For an installed wheel, what the environment
    variable ``SSLKIT_COMMIT`` says that it was built from, or nothing.
    """
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return os.environ.get("SSLKIT_COMMIT", "")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that belongs to somebody else
        return ""
