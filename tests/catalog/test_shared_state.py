"""Code that is only loaded changes nothing for anybody else: a run has the same bits with and without it."""

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sslkit import Backbone, Evaluation, Evaluator, LabeledData, Notice, RunContext, load_catalog, load_recipe, run_recipe
from sslkit.catalog.shared_state import kept_state
from tests.catalog.plugin_site import GOOD, Site
from tests.observers import Recorder
from tests.recipes import SMALL, two_stages_of, weights

LOUD = """
import os, random
import numpy, torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(torch.get_num_threads() + 1)
torch.use_deterministic_algorithms(True)
torch.manual_seed(1)
numpy.random.seed(1)
random.seed(1)
os.chdir("/")
"""

PUT_BACK = (
    "torch's default dtype, torch's number of threads, torch's deterministic algorithms, torch's global generator, numpy's global generator,"
    " Python's global generator, the working directory"
)


def _seed_numpy() -> None:
    np.random.seed(3)  # noqa: NPY002 - what foreign code does


CHANGES: dict[str, Callable[[], object]] = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cuDNN's flags": lambda: setattr(torch.backends.cudnn, "deterministic", not torch.backends.cudnn.deterministic),
    "torch's precision of products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch's gradient mode": lambda: torch.set_grad_enabled(False),
    "the flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "torch's global generator": lambda: torch.rand(1),
    "numpy's global generator": _seed_numpy,
    "Python's global generator": random.random,
    "the working directory": lambda: os.chdir("/"),
}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Whatever a test here leaves behind would reach all others."""
    with kept_state() as changed:
        yield
    assert changed == []


@pytest.mark.parametrize("name", CHANGES)
def test_each_part_is_put_back_and_named(name: str):
    with kept_state() as changed:
        CHANGES[name]()
    assert changed == [name]


def test_what_was_set_before_stays_set():
    with kept_state():
        for change in CHANGES.values():
            change()
        expected = (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), Path.cwd())
        with kept_state() as changed:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            torch.set_grad_enabled(True)
            os.chdir(Path(__file__).parent)
        assert len(changed) == 4
        assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), Path.cwd()) == expected


def test_it_is_put_back_after_an_error_too(tmp_path: Path):
    before = Path.cwd()
    with contextlib.suppress(KeyError), kept_state():
        os.chdir(tmp_path)
        raise KeyError
    assert Path.cwd() == before


@pytest.mark.parametrize("source", [LOUD + GOOD, LOUD + "raise OSError('broken, too')\n"], ids=["whole", "broken"])
def test_an_installed_plugin_that_nobody_uses_changes_no_weights(source: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", "")
    (tmp_path / "small.toml").write_text(SMALL)
    seen = Recorder(Notice)
    alone = run_recipe(load_recipe(tmp_path / "small.toml"), output=tmp_path / "alone", report=False, observers=[seen])
    assert not [message for message in seen.messages() if "put back" in message], "sslkit's own code leaves all of it alone"
    site.install("loud", source)
    note = f"plugin loud (sslkit-loud 1.0) changed {PUT_BACK} when it was loaded: put back"
    assert load_catalog().notes == (note,)
    assert load_catalog().notes == (note,), "the second time nothing is imported, and it is noted all the same"
    recipe = load_recipe(tmp_path / "small.toml")
    beside = run_recipe(recipe, output=tmp_path / "beside", report=False, observers=[seen])
    assert weights(beside.folder) == weights(alone.folder)
    assert beside.results.as_json() == alone.results.as_json()
    assert seen.messages().count(note) == 1


def test_a_hook_changes_nothing_either(site: Site):
    site.install("late", GOOD.replace("    return", "    import torch\n    torch.set_default_dtype(torch.float64)\n    return"))
    assert load_catalog().notes == ("plugin late (sslkit-late 1.0) changed torch's default dtype when it was loaded: put back",)
    assert load_catalog().names("pretext_tasks") == ("good",)


def test_a_class_of_ones_own_changes_nothing_by_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "loud_task.py").write_text(LOUD + "from sslkit_rotnet import RotNet\nclass Mine(RotNet):\n    pass\n")
    (tmp_path / "mine.toml").write_text(SMALL.replace('name = "rotnet"', 'name = "loud_task:Mine"'))
    try:
        for _ in range(2):  # the second recipe finds the module imported
            recipe = load_recipe(tmp_path / "mine.toml", allow_code=True)
            assert recipe.notes == (f"importing loud_task changed {PUT_BACK}: put back",)
    finally:
        del sys.modules["loud_task"]


@dataclass(frozen=True, kw_only=True)
class Careless(Evaluator):
    """Sets what it pleases while it measures, and reports what it found set."""

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        found = {"threads": float(torch.get_num_threads()), "bits": float(torch.finfo(torch.get_default_dtype()).bits)}
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        return Evaluation(found)


def test_a_stage_finds_what_it_would_find_if_it_ran_alone(tmp_path: Path):
    seen = Recorder(Notice)
    result = run_recipe(two_stages_of(Careless), output=tmp_path / "run", report=False, observers=[seen])
    assert result.results.stages["second"] == result.results.stages["first"]
    assert seen.messages() == ["code of this stage changed torch's default dtype, torch's number of threads: put back"] * 2
