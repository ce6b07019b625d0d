"""Recipes, and folders of runs made by hand, as ``sslkit run`` leaves them."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from sslkit import load_catalog
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.report.run_folder import RunFolder
from sslkit.run.artifacts import ARTIFACT, METRICS
from sslkit.storage.json_files import write_json, write_text

HASH = "0123456789abcdef" * 4
ENVIRONMENT: dict[str, Any] = {
    "started": "2025-01-01T00:00:00+00:00",
    "command": ["sslkit", "run", "mine.toml"],
    "commit": "0123456789ab-dirty",
    "python": "3.11.0",
    "platform": "Linux",
    "device": "a CPU, 2 threads",
    "threads": 2,
    "versions": {"sslkit": "0.1.0", "torch": "2.6.0"},
    "plugins": {"sslkit-rotnet": "1.5"},
}

Log = Sequence[Mapping[str, Any]]
MakeRun = Callable[..., RunFolder]
"""The fixture ``run_of``."""


def make_run(
    folder: Path,
    stages: Mapping[str, Mapping[str, float]],
    *,
    name: str = "mine",
    paper: Mapping[str, float] | None = None,
    margins: Mapping[str, tuple[str, str]] | None = None,
    logs: Mapping[str, Log] | None = None,
    begun: Sequence[str] = (),
    pending: Sequence[str] = (),
    recipe: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a run's folder: metrics by the keys of finished stages, and lines of metrics.jsonl by stage.

    A metric that begins with ``pretext_`` makes it a pretraining stage. Stages that are ``begun`` have an artifact but are not finished, and
    ``pending`` is what results.json says is still to run. ``recipe`` and ``artifacts`` (by stage) are further keys of these files.
    """
    for key, metrics in stages.items():
        artifact = {**artifact_of(key, metrics), **(artifacts or {}).get(key, {})}
        write_json(folder / key / ARTIFACT, artifact)
    for key in begun:
        write_json(folder / key / ARTIFACT, {"stage": key, "kind": "evaluate", "status": "running"})
    for key, lines in (logs or {}).items():
        write_text(folder / key / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "results.json", {"recipe": name, "stages": stages, "paper": paper or {}, "margins": {}, "pending": list(pending)})
    table = {"name": name, "data": {"name": "digits"}, "paper": dict(paper or {}), **(recipe or {})}
    table["margins"] = {label: list(pair) for label, pair in (margins or {}).items()}
    write_text(folder / "recipe.toml", tomli_w.dumps(table))
    return folder


def artifact_of(key: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What a finished stage says of itself."""
    pretrains = any(metric.startswith("pretext_") for metric in metrics)
    own = {} if pretrains else {"num_test_images": 10_000, "frozen_backbone": {"sha256_before": HASH, "sha256_after": HASH}}
    return {
        "stage": key,
        "kind": "pretrain" if pretrains else "evaluate",
        "status": "finished",
        "metrics": dict(metrics),
        "num_images": 50_000,
        "seconds": 61.25,
        "finished": "2025-01-01T00:01:02+00:00",
        "environments": [ENVIRONMENT],
        "device": "a CPU, 2 threads",
        **own,
    }


def train_line(epoch: float, *, split: str = "train", **metrics: float) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {"split": split, "part": "", "step": round(epoch * 10), "epoch": epoch, **metrics}


heldout_line = partial(train_line, split="heldout")


_HEAD = """
name = "tiny"
data = { name = "digits", image_size = 8 }
backbone = { name = "nin", num_blocks = 3, width = 0.05 }
"""

STAGES = """
[stages.pretrain]
task = { name = "rotnet" }
epochs = 2
batch_size = 500
snapshot_epochs = [1]

[stages.probe]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv1", "conv2"], epochs = 1, batch_size = 500 }

[stages.snapshots]
weights = "pretrain@each"
evaluator = { name = "linear_probe", layers = ["conv3"], epochs = 1, batch_size = 500 }

[stages.random_probe]
weights = "random"
evaluator = { name = "linear_probe", layers = ["conv3"], epochs = 1, batch_size = 500 }

[stages.finetune]
weights = "pretrain"
evaluator = { name = "finetune", epochs = 1, batch_size = 500 }

[stages.supervised]
weights = "random"
evaluator = { name = "supervised", epochs = 1, batch_size = 500 }
"""


def recipe_of(text: str = STAGES) -> Recipe:
    return parse_recipe(tomllib.loads(_HEAD + text), load_catalog())


def finish(
    folder: Path, key: str, metrics: dict[str, float] | None = None, *, status: str = "finished", classes: tuple[str, ...] = ()
) -> None:
    """Leave a stage's artifact."""
    write_json(folder / key / ARTIFACT, {"status": status, "metrics": metrics or {}, "classes": list(classes)})
