"""Edit and rerun: code of every role decides an outcome as options do, and nothing is recomputed or taken for finished in silence."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sslkit import (
    NIN,
    ArtifactError,
    Recipe,
    StageEnd,
    StageSkipped,
    StageStart,
    TrainingOptions,
    load_recipe,
    pretrain,
    run_recipe,
)
from sslkit.data.digits import Digits
from tests.observers import Recorder

HEAD = "from dataclasses import dataclass\n"
MINE = "\n@dataclass(frozen=True, kw_only=True)\nclass Mine({base}):\n    '''Mine.'''\n"
FILES = {
    "my_data.py": HEAD + "from sslkit.data.digits import Digits\n" + MINE.format(base="Digits"),
    "my_net.py": "from sslkit import NIN\n\nclass Mine(NIN):\n    '''Mine.'''\n",
    "my_task.py": HEAD + "from sslkit_rotnet.task import RotNet\nimport my_views\n" + MINE.format(base="RotNet"),
    "my_views.py": "ANGLES = (0, 90)\n",
    "my_sgd.py": HEAD + "from sslkit import SGD\n" + MINE.format(base="SGD"),
    "my_schedule.py": HEAD + "from sslkit import Constant\n" + MINE.format(base="Constant"),
    "my_probe.py": HEAD + "from sslkit import LinearProbe\n" + MINE.format(base="LinearProbe"),
}
RECIPE = """
name = "mine"
device = "cpu"
data = { name = "my_data:Mine" }
backbone = { name = "my_net:Mine", num_blocks = 3, width = 0.02 }
[stages.pretrain]
task = { name = "my_task:Mine" }
optimizer = { name = "my_sgd:Mine", lr = 0.1 }
schedule = { name = "my_schedule:Mine" }
epochs = 1
batch_size = 1000
[stages.probe]
weights = "pretrain"
evaluator = { name = "my_probe:Mine", layers = ["conv2"], epochs = 1, batch_size = 1000 }
"""


class Project:
    """A folder with a recipe and code of every role beside it, as a user has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mine.toml").write_text(RECIPE)
        for name, text in FILES.items():
            self.edit(name, text)

    def edit(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def recipe(self) -> Recipe:
        """As a new process loads it."""
        for name in FILES:
            sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()
        return load_recipe(self.folder / "mine.toml", allow_code=True)

    def run(self, *, fresh: bool = False) -> list[str]:
        """Run it. Returns which stages were begun, and which were skipped."""
        stages = Recorder(StageStart, StageEnd, StageSkipped)
        run_recipe(self.recipe(), output=self.folder / "run", observers=[stages], fresh=fresh, report=False)
        return [f"{type(event).__name__} {event.stage}" for event in stages.events]


@contextmanager
def project_in(folder: Path) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)  # an edit in the same second would be taken for the file that was compiled
        yield Project(folder)
        for name in FILES:
            sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as project:
        yield project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project's run."""
    with project_in(tmp_path_factory.mktemp("finished")) as project:
        assert project.run() == ["StageStart pretrain", "StageEnd pretrain", "StageStart probe", "StageEnd probe"]
        return project.folder / "run"


@pytest.mark.parametrize("name", FILES)
def test_a_finished_stage_whose_code_was_edited_is_refused(name: str, finished: Path, project: Project):
    shutil.copytree(finished, project.folder / "run")
    results = (project.folder / "run" / "results.json").read_bytes()
    stage = "probe" if name == "my_probe.py" else "pretrain"
    project.edit(name, FILES[name] + "\nX = 1\n")
    message = (
        rf"run/{stage}: holds stage '{stage}' of a different recipe \(code of {name}\);"
        r" remove that folder to run this stage again, start over with --fresh, or choose another folder with --output$"
    )
    with pytest.raises(ArtifactError, match=message):
        project.run()
    project.edit(name, "# A comment.\n" + FILES[name].replace("Mine.", "What it is."))
    assert project.run() == ["StageSkipped pretrain", "StageSkipped probe"]
    assert (project.folder / "run" / "results.json").read_bytes() == results


def test_fresh_is_the_way_out(finished: Path, project: Project):
    shutil.copytree(finished, project.folder / "run")
    project.edit("my_task.py", FILES["my_task.py"] + "\nX = 1\n")
    assert project.run(fresh=True) == ["StageStart pretrain", "StageEnd pretrain", "StageStart probe", "StageEnd probe"]
    assert project.run() == ["StageSkipped pretrain", "StageSkipped probe"]


def test_a_file_that_is_edited_while_it_runs_is_not_what_has_run(project: Project):
    recipe = project.recipe()
    project.edit("my_probe.py", FILES["my_probe.py"] + "\nX = 1\n")
    run_recipe(recipe, output=project.folder / "run", report=False)
    with pytest.raises(ArtifactError, match=r"\(code of my_probe\.py\)"):
        project.run()
    project.edit("my_probe.py", FILES["my_probe.py"])
    assert project.run() == ["StageSkipped pretrain", "StageSkipped probe"]


def test_an_interrupted_stage_whose_code_was_edited_is_refused_as_well(finished: Path, project: Project):
    shutil.copytree(finished, project.folder / "run")
    path = project.folder / "run" / "pretrain" / "artifact.json"
    artifact = json.loads(path.read_text())
    path.write_text(json.dumps({**artifact, "status": "running"}))
    project.edit("my_sgd.py", FILES["my_sgd.py"] + "\nX = 1\n")
    with pytest.raises(ArtifactError, match=r"\(code of my_sgd\.py\)"):
        project.run()


def test_the_same_holds_without_a_recipe(project: Project):
    """What is made in Python is known by its code, too."""

    def run() -> str:
        project.recipe()
        task = importlib.import_module("my_task").Mine()
        backbone = NIN(Digits().image(), num_blocks=3, width=0.02).requires_grad_(True)
        for parameter in backbone.parameters():
            parameter.data.fill_(0.01)
        training = TrainingOptions(epochs=1, batch_size=1000)
        return pretrain(task, backbone, Digits(), training=training, output=project.folder / "alone").fingerprint

    first = run()
    project.edit("my_views.py", "ANGLES = (0, 180)\n")
    with pytest.raises(ArtifactError, match=r"\(code of my_views\.py\)"):
        run()
    project.edit("my_views.py", FILES["my_views.py"])
    assert run() == first
