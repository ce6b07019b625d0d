"""Errors in a plugin's code, in every role: one line that names it, its own frames, and what became of the work."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslkit import OptionError, load_recipe, run_recipe
from sslkit.contract.blame import blame_of, blaming, portable
from tests.catalog.plugin_site import Site
from tests.recipes import SMALL

PLUGIN = """
from dataclasses import dataclass

import torch
from sslkit import *
from sslkit_rotnet.task import RotNet

def boom():
    raise KeyError("boom")

def refuse():
    raise OptionError("depth", "is bad", found=3, allowed="4")

def leave():
    raise SystemExit(3)


def failing(objective, method):
    if method == "schedule":
        objective.schedules = lambda: {"rate": lambda progress: boom()}
        return objective
    def broken(self, *arguments, **options):
        if method != "make_test_views" or not options["train"]:
            refuse() if method == "on_before_step" else boom()
        return super(type(self), self).make_views(*arguments, **options)
    name = "make_views" if method == "make_test_views" else method
    broken.__code__ = broken.__code__.replace(co_name=name)
    objective.__class__ = type("Failing", (type(objective),), {name: broken, "__module__": __name__})
    return objective

@dataclass(frozen=True, kw_only=True)
class Task(RotNet):
    method: str = "forward"

    def __post_init__(self):
        if self.method == "__post_init__":
            boom()

    def image_spec(self, data):
        return boom() if self.method == "image_spec" else super().image_spec(data)

    def build_objective(self, backbone, data):
        if self.method == "build_objective":
            torch.nn.Linear("five", 1)
        return failing(super().build_objective(backbone, data), self.method)

def sparse(groups):
    return torch.optim.SparseAdam([{**group, "params": list(group["params"])} for group in groups], lr=0.1)


class Stepping(torch.optim.SGD):
    def step(self, closure=None):
        boom()

@dataclass(frozen=True, kw_only=True)
class Factory(OptimizerFactory):
    method: str = "step"

    def build(self, groups):
        return boom() if self.method == "build" else sparse(groups) if self.method == "sparse" else Stepping(groups, lr=0.1)

@dataclass(frozen=True, kw_only=True)
class Falling(Schedule):
    def scale(self, epoch, num_epochs):
        return boom() if epoch else 1.0

@dataclass(frozen=True, kw_only=True)
class Data(Dataset):
    method: str = "load"

    def image(self):
        return Digits().image()

    def load(self, split):
        return boom() if self.method == "load" else Images(Digits().load(split), self.method)

class Images(ImageSet):
    def __init__(self, source, method):
        self.method = method
        self.image, self.labels, self.classes, self.fingerprint = source.image, source.labels, source.classes, "x"
        self.source = source

    def __len__(self):
        return len(self.source)

    def read(self, indices):
        if 1000 in indices:
            leave() if self.method == "leave" else boom()
        return self.source.read(indices)


class Net(Backbone):
    def __init__(self, image, *, method: str = "extract"):
        super().__init__(image)
        self.method = method
        if method == "__init__":
            boom()
        self.conv = torch.nn.Conv2d(image.num_chs, 4, 3)
        self.feature_info = (FeatureInfo("conv2", 4, 1),)

    def extract(self, x, layers):
        return boom() if self.method == "extract" else {"conv2": self.conv(x)}


@dataclass(frozen=True, kw_only=True)
class Measure(Evaluator):
    frozen = True
    leaves: bool = False

    def check(self, backbone, data):
        pass

    def evaluate(self, backbone, data, context):
        leave() if self.leaves else boom()
"""


@pytest.fixture
def recipe(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's file, where the plugin is installed."""
    monkeypatch.delenv("SSLKIT_DISABLE_PLUGINS")
    site.install("foo", PLUGIN, module="foo_tasks", version="1.2", entries={})
    (tmp_path / "sslkit_foo-1.2.dist-info" / "top_level.txt").write_text("foo_tasks\n")
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "small.toml"


@pytest.fixture
def command(recipe: Path, sslkit_command: Callable[..., Any]) -> Callable[..., list[str]]:
    """Runs the recipe, and gives the lines on stderr."""

    def run(*overrides: str) -> list[str]:
        printed = sslkit_command("run", recipe.name, *overrides, "--allow-code", "--quiet")
        assert (printed.code, printed.out) == (1, "")
        return printed.err.splitlines()

    return run


TASK = "stages.pretrain.task={{ name = 'foo_tasks:Task', method = '{}' }}"
STEP_1, FAILED = "stage 'pretrain', step 1 (batch 1 of epoch 1)", "of sslkit-foo 1.2 failed in"
CASES = {
    "constructor": (TASK.format("__post_init__"), f"stages.pretrain.task: Task {FAILED} __post_init__"),
    "image_spec": (TASK.format("image_spec"), f"stages.pretrain.task: Task {FAILED} image_spec"),
    "objective": (TASK.format("build_objective"), f"stages.pretrain.task: Task {FAILED} build_objective"),
    "views": (TASK.format("make_views"), f"{STEP_1}: Failing {FAILED} make_views"),
    "held out": (TASK.format("make_test_views"), f"stage 'pretrain', after step 3: Failing {FAILED} make_views"),
    "forward": (TASK.format("forward"), f"{STEP_1}: Failing {FAILED} forward"),
    "hook": (TASK.format("on_after_step"), f"{STEP_1}: Failing {FAILED} on_after_step"),
    "value": (TASK.format("schedule"), "stages.pretrain: failing.<locals>.<lambda>.<locals>.<lambda> in foo_tasks.py failed"),
    "factory": ("stages.pretrain.optimizer={ name = 'foo_tasks:Factory', method = 'build' }", f"stages.pretrain: Factory {FAILED} build"),
    "optimizer": ("stages.pretrain.optimizer={ name = 'foo_tasks:Factory' }", f"{STEP_1}: Stepping {FAILED} step"),
    "schedule": ("stages.pretrain.schedule={ name = 'foo_tasks:Falling' }", f"stages.pretrain.schedule: Falling {FAILED} scale"),
    "data": ("data={ name = 'foo_tasks:Data' }", f"data: Data {FAILED} load"),
    "images": ("data={ name = 'foo_tasks:Data', method = 'read' }", f"stage 'pretrain': Images {FAILED} read"),
    "network": ("backbone={ name = 'foo_tasks:Net', method = '__init__' }", f"backbone: Net {FAILED} __init__"),
    "features": ("backbone={ name = 'foo_tasks:Net' }", f"{STEP_1}: Net {FAILED} extract"),
    "evaluator": ("stages.probe.evaluator={ name = 'foo_tasks:Measure' }", f"stage 'probe': Measure {FAILED} evaluate"),
    "exit": (
        "stages.probe.evaluator={ name = 'foo_tasks:Measure', leaves = true }",
        f"stage 'probe': Measure {FAILED} evaluate: SystemExit: 3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plugin_that_fails_is_named_with_its_stage_and_its_own_frames(case: str, command: Callable[..., list[str]]):
    override, place = CASES[case]
    first, *frames = command(override)
    assert re.match(f"error: {re.escape(place)}[:;] ", first)
    assert first.endswith("; resume with: sslkit run small.toml " + first.rpartition("small.toml ")[2])
    assert ("there is no checkpoint yet" in first) == ("step 1 " in place)
    files = {line.split('"')[1] for line in frames if line.startswith("  File ")}
    assert {Path(file).name for file in files} == {"foo_tasks.py"}
    assert any("boom()" in line or "leave()" in line or "Linear" in line for line in frames)


@pytest.mark.parametrize(("method", "error"), [("read", "KeyError: 'boom'"), ("leave", "SystemExit: 3")])
def test_what_a_worker_could_not_read_names_its_plugin_and_leaves_a_checkpoint(
    method: str, error: str, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    """The traceback lies in another process, and the state is that of the steps before."""
    monkeypatch.setattr("sslkit.data.cache.MAX_RESIDENT_BYTES", 0)
    data = f"data={{ name = 'foo_tasks:Data', method = '{method}' }}"
    first, *frames = command(data, "num_workers=1", "stages.pretrain.batch_size=100", "stages.pretrain.quality_epochs=[]")
    assert re.match(
        r"error: stage 'pretrain', step \d+ \(batch \d+ of epoch 1\), reading images: Images of sslkit-foo 1\.2 failed in read: "
        rf"{error}; runs/small/pretrain/checkpoint-\d+\.safetensors is kept; resume with: ",
        first,
    )
    assert any("boom()" in line for line in frames)


def test_frames_are_plain_values_that_any_process_takes():
    """What Python itself says of a frame holds its code from 3.13 on, and code cannot be pickled."""
    with pytest.raises(ZeroDivisionError) as caught, blaming():
        1 / 0  # noqa: B018
    blame = blame_of(caught.value)
    assert blame is not None
    ((file, line, function, source),) = blame.frames
    assert type(blame.frames[0]) is tuple
    assert Path(file).name == "test_blame.py"
    assert f", line {line}, in {function}\n    {source}\n" in blame.traceback()


def test_in_python_the_error_keeps_its_type_and_says_the_same(recipe: Path, tmp_path: Path):
    loaded = load_recipe(recipe, [TASK.format("forward")], allow_code=True)
    with pytest.raises(KeyError) as caught:
        run_recipe(loaded, output=tmp_path / "run")
    (note,) = caught.value.__notes__
    assert note.startswith("stage 'pretrain', step 1 (batch 1 of epoch 1): Failing of ")
    assert note.endswith("failed in forward: KeyError: 'boom'; there is no checkpoint yet")


def test_what_a_plugin_refuses_late_says_where_it_did_and_stays_what_it_is(recipe: Path, tmp_path: Path):
    loaded = load_recipe(recipe, [TASK.format("on_before_step")], allow_code=True)
    message = r"^stage 'pretrain': Failing of [^:]* failed in on_before_step: depth: is bad; found 3; allowed: 4$"
    with pytest.raises(OptionError, match=message) as caught:
        run_recipe(loaded, output=tmp_path / "run")
    assert caught.value.option == "depth"


def test_an_optimizer_of_torchs_that_cannot_do_with_the_gradients_is_named(command: Callable[..., list[str]]):
    lines = command("stages.pretrain.optimizer={ name = 'foo_tasks:Factory', method = 'sparse' }")
    assert len(lines) == 1
    assert lines[0].startswith("error: stage 'pretrain', step 1 (batch 1 of epoch 1): SparseAdam of torch ")
    assert " failed in step: RuntimeError: SparseAdam does not support dense gradients" in lines[0]


def test_an_error_of_sslkit_itself_keeps_its_traceback_and_says_so(command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sslkit.run.stages.state_hash", lambda _: {}["missing"])
    monkeypatch.setattr("sslkit.run.stages.derive_seed", None)
    lines = command()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == (
        "error: stage 'pretrain': TypeError: 'NoneType' object is not callable; "
        "this is an error of sslkit itself: please report it with the lines above"
    )


class TwoArgumentsError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(("error", "kind"), [(KeyError("x"), KeyError), (TwoArgumentsError("a", "b"), RuntimeError)], ids=repr)
def test_an_error_is_sent_as_itself_where_that_is_possible_and_its_note_in_any_case(error: Exception, kind: type[Exception]):
    with pytest.raises(type(error)), blaming("reading images"):
        raise error
    sent = portable(error)
    assert type(sent) is kind
    assert blame_of(sent) == blame_of(error)
