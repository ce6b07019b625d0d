"""What belongs beside a result lies with it: upgrade and rerun, move to another machine and resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sslkit.run.stage_folder
from sslkit import RunInterruptedError, load_recipe, run_recipe, write_report
from sslkit.recipe.recipe import Recipe
from sslkit.run.environment import checkout_commit, describe_environment
from tests.recipes import SMALL
from tests.training.brightness import stop_after


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "small.toml").write_text(SMALL)
    return load_recipe(tmp_path / "small.toml")


@pytest.fixture
def compute_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the next starts take place on another machine, or with other versions."""

    def compute_with(torch_version: str, **facts: Any) -> None:
        def described(device: torch.device) -> dict[str, Any]:
            found = describe_environment(device)
            return {**found, "versions": {**found["versions"], "torch": torch_version}, **facts}

        monkeypatch.setattr(sslkit.run.stage_folder, "describe_environment", described)

    return compute_with


def status(folder: Path) -> str:
    return (folder / "artifact.json").read_text() if (folder / "artifact.json").exists() else ""


def environments(folder: Path) -> list[str]:
    artifact = json.loads((folder / "artifact.json").read_text())
    return [f"torch {environment['versions']['torch']} on {environment['platform']}" for environment in artifact["environments"]]


def test_what_a_stage_was_computed_with_is_never_rewritten(recipe: Recipe, compute_with: Callable[..., None], tmp_path: Path):
    folder = tmp_path / "run"
    compute_with("2.6", platform="old")
    with pytest.raises(RunInterruptedError):
        run_recipe(recipe, output=folder, should_stop=lambda: '"finished"' in status(folder / "pretrain"))
    before = (folder / "pretrain" / "artifact.json").read_bytes()
    compute_with("2.7", platform="new")
    run_recipe(recipe, output=folder, report=False)
    assert (folder / "pretrain" / "artifact.json").read_bytes() == before
    assert environments(folder / "pretrain") == ["torch 2.6 on old"]
    assert environments(folder / "probe")[-1] == "torch 2.7 on new"
    page = write_report([folder], output=tmp_path / "report").page.read_text()
    assert "old (pretrain" in page
    assert "new (probe)" in page


def test_a_stage_that_was_resumed_elsewhere_says_so(recipe: Recipe, compute_with: Callable[..., None], tmp_path: Path):
    folder = tmp_path / "run"
    for version in ("2.6", "2.6", "2.7"):  # the second start is like the first
        compute_with(version, platform="here")
        with pytest.raises(RunInterruptedError):  # asked before the stage, and after each step
            run_recipe(recipe, output=folder, should_stop=stop_after(2))
    assert json.loads((folder / "pretrain" / "artifact.json").read_text())["status"] == "running"
    run_recipe(recipe, output=folder, report=False)
    assert environments(folder / "pretrain") == ["torch 2.6 on here", "torch 2.7 on here"]


def test_the_commit_is_that_of_what_was_loaded(monkeypatch: pytest.MonkeyPatch):
    """A checkout that moves on while a run goes on is not what runs."""
    checkout_commit.cache_clear()
    first = checkout_commit()
    monkeypatch.setattr("subprocess.run", lambda *_args, **_options: pytest.fail("asked again"))
    assert checkout_commit() == first
