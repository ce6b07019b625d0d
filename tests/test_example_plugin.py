import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "sslkit-flips"

INSPECT = """
import torch
from torch import Generator
from sslkit import Backbone, Batch, DataInfo, FeatureInfo, ImageSpec, PretextTask, RecipeError, Step, load_catalog
from sslkit.recipe.build import build
from sslkit.recipe.describe import describe

class Identity(Backbone):
    feature_info = (FeatureInfo("pixels", 3, 1),)
    def extract(self, x, layers):
        return {"pixels": x}

catalog = load_catalog()
info, = [plugin for plugin in catalog.plugins if plugin.name == "flips"]
assert info.error is None, info.error
assert (info.distribution, info.version, info.offers) == ("sslkit-flips", "0.1.0", {"pretext_tasks": ("flips",)}), info
assert catalog.owner(catalog.find("pretext_tasks", "flips")) == info

task = build(PretextTask, {"name": "flips", "flips": ["none", "horizontal", "vertical", "both"]}, "task", catalog)
assert build(PretextTask, describe(task, catalog), "task", catalog) == task == build(PretextTask, "flips", "task", catalog)

image = ImageSpec(4, 6, "rgb", (0.5,) * 3, (0.25,) * 3)
objective = task.build_objective(Identity(image), DataInfo(image, 64))
images = torch.arange(64 * 3 * 4 * 6).reshape(64, 3, 4, 6).remainder(251).to(torch.uint8)
views = objective.make_views(Batch(images, torch.arange(64)), Generator().manual_seed(0), train=True)
reverse = {0: lambda x: x, 1: lambda x: x[:, :, ::-1], 2: lambda x: x[:, ::-1], 3: lambda x: x[:, ::-1, ::-1]}
for original, view, label in zip(images.numpy(), views["images"].numpy(), views["labels"].tolist(), strict=True):
    assert (view == reverse[label](original)).all()
assert set(views["labels"].tolist()) == {0, 1, 2, 3}

output = objective(views, Step("main"))
output.loss.backward()
logits = objective.head(objective.backbone.embed(views["images"]))
assert torch.allclose(output.loss, -logits.log_softmax(1)[torch.arange(64), views["labels"]].mean())
assert objective.head.weight.grad is not None
total, num = output.metrics["top1"]
assert torch.allclose(total / num, (logits.argmax(1) == views["labels"]).float().mean() * 100)
assert objective.classes == ("none", "horizontal", "vertical", "both")
assert torch.equal(output.predictions["class"].logits, logits) and torch.equal(output.predictions["class"].targets, views["labels"])
assert objective.captions(views) == {"images": [objective.classes[label] for label in views["labels"]]}

def refused(table):
    try:
        build(PretextTask, table, "stages.pretrain.task", catalog)
    except RecipeError as error:
        return str(error)

assert refused({"name": "flips", "flips": ["none"]}) == (
    "stages.pretrain.task.flips: must be two or more, all different; found ('none',); allowed: none, horizontal, vertical, both"
)
assert refused({"name": "flips", "flips": ["none", "up"]}) == (
    "stages.pretrain.task.flips: must be two or more, all different; found ('none', 'up'); allowed: none, horizontal, vertical, both"
)
assert refused("flip").startswith("stages.pretrain.task: no pretext task is called 'flip'; allowed: flips, ")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder that a real installation of the example went to."""
    before = sorted(EXAMPLE.rglob("*"))
    options = ["--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index", "--target", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(EXAMPLE.rglob("*")) == before  # building leaves nothing behind
    return tmp_path


def test_the_installed_example_is_found_and_works(installed: Path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-W", "error", "-c", INSPECT]
    done = subprocess.run(command, env=environment, cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_imports_nothing_but_the_public_api():
    sources = [path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*.py")]
    imported = {module for source in sources for module in re.findall(r"^(?:from|import) (sslkit[\w.]*)", source, flags=re.MULTILINE)}
    assert imported == {"sslkit"}
    assert sum(len(source.splitlines()) for source in sources) <= 35


@pytest.mark.docs
def test_its_readme_shows_what_its_pyproject_says():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert project["entry-points"]["sslkit"] == {"flips": "sslkit_flips"}
    recipe = tomllib.loads(re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)[0])
    assert recipe["stages"]["pretrain"]["task"]["name"] == "flips"
