"""Small recipes, what is said of them, and runs of them in processes of their own."""

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from sslkit import Evaluator, Recipe, load_catalog
from sslkit.catalog.catalog import Offer
from sslkit.recipe.recipe import parse_recipe
from sslkit.recipe.toml import apply_override
from sslkit.storage.metrics_log import read_metrics

HEAD = """
name = "small"
device = "cpu"
log_every = 1

[data]
name = "digits"

[backbone]
name = "nin"
num_blocks = 3
width = 0.05
"""

PRETRAIN = """
[stages.pretrain]
task = { name = "rotnet" }
augment = { crop_padding = 1 }
epochs = 1
batch_size = 500
"""

PROBE = """
[stages.probe]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 500 }
"""

SMALL = HEAD + PRETRAIN + PROBE

LONG = SMALL.replace("epochs = 1\nbatch_size = 500", "epochs = 30\nbatch_size = 500")
"""A pretraining of 90 steps: there is time to do something to it."""


def changed(*overrides: str, text: str = SMALL) -> str:
    """A recipe with other values for some keys, each as on a command line."""
    table = tomllib.loads(text)
    for override in overrides:
        apply_override(table, override)
    return tomli_w.dumps(table)


def two_stages_of(evaluator: type[Evaluator]) -> Recipe:
    """A recipe whose stages ``first`` and ``second`` measure an untrained network with a class of a test's own."""
    stage = '[stages.{}]\nweights = "random"\nevaluator = "mine"\n'
    table = tomllib.loads(f"{HEAD}{stage.format('first')}{stage.format('second')}")
    installed = load_catalog()
    return parse_recipe(table, replace(installed, offers=(*installed.offers, Offer("evaluators", "mine", evaluator, None))))


def refusal(kind: type[Exception], call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start(recipe: Path, folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """``sslkit run`` in a process of its own."""
    command = [sys.executable, "-m", "sslkit", "run", str(recipe), "--quiet", "--output", str(folder), *arguments]
    return subprocess.Popen(
        command, cwd=recipe.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}, **options
    )


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process is to do; fails where it ends before."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def has_trained(folder: Path) -> Callable[[], bool]:
    """Whether a run's pretraining has taken its first steps."""
    return lambda: (folder / "pretrain" / "metrics.jsonl").exists() and len(read_metrics(folder / "pretrain" / "metrics.jsonl")) > 2


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of tensors below a run's folder."""
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.safetensors"))}


def steps_logged(path: Path) -> list[tuple[str, ...]]:
    """Every line of a metrics file but for its throughput, by part and step."""
    lines = [{key: value for key, value in line.items() if key != "images_per_second"} for line in read_metrics(path)]
    return sorted(tuple(f"{key}={value}" for key, value in line.items()) for line in lines)
