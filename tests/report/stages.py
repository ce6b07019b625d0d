"""The stages of a recipe, and folders that look as if they had run."""

import tomllib
from pathlib import Path

from sslkit import load_catalog
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.run.artifacts import ARTIFACT
from sslkit.storage.json_files import write_json

HEAD = """
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
    return parse_recipe(tomllib.loads(HEAD + text), load_catalog())


def finish(
    folder: Path, key: str, metrics: dict[str, float] | None = None, *, status: str = "finished", classes: tuple[str, ...] = ()
) -> None:
    """Leave a stage's artifact."""
    write_json(folder / key / ARTIFACT, {"status": status, "metrics": metrics or {}, "classes": list(classes)})
