"""Runs whose disk, memory or folder is not what it should be: one clear line, nothing lost, and the next start goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sslkit import (
    ArtifactError,
    CheckpointSaved,
    DataError,
    Dataset,
    Event,
    ImageSet,
    ImageSpec,
    RunFailedError,
    StageStart,
    StepEnd,
    StorageError,
    load_recipe,
    run_recipe,
    write_report,
)
from sslkit.contract.events import Record
from sslkit.contract.images import Split
from sslkit.data import cache
from sslkit.data.cache import OpenedDataset
from sslkit.data.digits import Digits
from sslkit.recipe.recipe import Recipe
from sslkit.run.artifacts import ARTIFACT
from sslkit.run.preflight import check
from sslkit.storage.json_files import read_json, write_json
from sslkit.storage.tensor_file import load_tensors
from tests.recipes import SMALL, steps_logged, weights
from tests.run.disks import file_sizes_limited, fill, make_read_only, small_disk


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipes") / "small.toml"
    path.write_text(SMALL)
    return load_recipe(path, ["stages.pretrain.epochs=2", "checkpoint_minutes=0"])


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(recipe, output=tmp_path_factory.mktemp("whole") / "run").folder  # with its report: "tables" is in it


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run, to spoil."""
    return shutil.copytree(whole, tmp_path / "run")


class At(Record):
    """Does something once, after an event of a stage; what it raises ends the run."""

    def __init__(self, kind: type[Event], stage: str, step: int, action: Callable[[], object]) -> None:
        self._awaited = (kind, stage, step)
        self._action = action

    def observe(self, event: Event) -> None:
        if (type(event), event.stage, getattr(event, "step", 0)) == self._awaited:
            self._action()


def assert_goes_on(recipe: Recipe, folder: Path, whole: Path) -> None:
    """Started again, the run ends as one that nothing happened to."""
    run_recipe(recipe, output=folder, report=False)
    assert weights(folder) == weights(whole)
    for stage in ("pretrain", "probe"):
        assert steps_logged(folder / stage / "metrics.jsonl") == steps_logged(whole / stage / "metrics.jsonl")


# --------------------------------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize("stage", ["pretrain", "probe"])
@pytest.mark.parametrize("kind", [StepEnd, CheckpointSaved])
def test_a_disk_that_fills_up_stops_the_run_and_keeps_the_last_checkpoint(
    stage: str, kind: type[Event], recipe: Recipe, whole: Path, tmp_path: Path
):
    with small_disk(tmp_path / "disk", size="8m") as disk:
        folder = disk / "run"
        with pytest.raises(
            StorageError, match=r"cannot be written, the disk is full; free some space; what was written before is still there$"
        ):
            run_recipe(recipe, output=folder, observers=[At(kind, stage, 2, lambda: fill(disk))])
        checkpoints = sorted((folder / stage).glob("checkpoint-*"))
        assert checkpoints
        assert load_tensors(checkpoints[-1])[1]["step"] in (1, 2)
        assert not list(disk.rglob("*.tmp-*"))
        (disk / "filler").unlink()
        assert_goes_on(recipe, folder, whole)


def test_a_disk_that_becomes_read_only_stops_the_run(recipe: Recipe, whole: Path, tmp_path: Path):
    with small_disk(tmp_path / "disk", size="8m") as disk:
        folder = disk / "run"
        with pytest.raises(StorageError, match=r"cannot be written, the file system is read-only; "):
            run_recipe(recipe, output=folder, observers=[At(StepEnd, "pretrain", 4, lambda: make_read_only(folder / "pretrain"))])
        assert load_tensors(max((folder / "pretrain").glob("checkpoint-*")))[1]["step"] == 3
        make_read_only(disk)
        with pytest.raises(
            ArtifactError, match=r"\.lock: cannot be locked \(.*Read-only file system.*\); choose another folder with --output$"
        ):
            run_recipe(recipe, output=folder)
        shutil.copytree(folder, tmp_path / "copy")
        assert_goes_on(recipe, tmp_path / "copy", whole)


@pytest.mark.slow
def test_a_quota_stops_the_run(recipe: Recipe, whole: Path, tmp_path: Path):
    """A limit on the size of files: what can be had without an administrator."""
    folder = tmp_path / "run"
    limit = file_sizes_limited(2000)
    with pytest.raises(
        StorageError, match=r"checkpoint-000000003\.safetensors: cannot be written, the file is larger than this account may"
    ):
        run_recipe(recipe, output=folder, observers=[At(CheckpointSaved, "pretrain", 2, limit.__enter__)])
    limit.__exit__(None, None, None)
    assert_goes_on(recipe, folder, whole)


def test_a_report_that_finds_the_disk_full_does_not_take_the_run_down(recipe: Recipe, whole: Path, tmp_path: Path):
    with small_disk(tmp_path / "disk", size="8m") as disk:
        shutil.copytree(whole, disk / "run")
        shutil.rmtree(disk / "run" / "tables")
        (disk / "run" / "report.html").unlink()
        fill(disk)
        with pytest.raises(StorageError, match="the disk is full"):  # results.json comes before the report
            run_recipe(recipe, output=disk / "run")
        (disk / "filler").unlink()
        run_recipe(recipe, output=disk / "run")
        assert weights(disk / "run") == weights(whole)
        assert (disk / "run" / "report.html").exists()


def test_an_image_that_vanishes_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "MAX_RESIDENT_BYTES", 0)  # images are decoded as they are needed, as those of a large folder are
    for split, number in (("train", 40), ("test", 4)):
        for index in range(number):
            path = tmp_path / "images" / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (6 * index, 0, 0)).save(path)
    data = f'name = "image_folder"\nroot = "{tmp_path / "images"}"\nimage_size = 16'
    (tmp_path / "small.toml").write_text(SMALL.replace('name = "digits"', data).replace("batch_size = 500", "batch_size = 4"))
    recipe = load_recipe(tmp_path / "small.toml", ["stages.pretrain.epochs=2", "checkpoint_minutes=0", "num_workers=1"])
    whole, folder = run_recipe(recipe, output=tmp_path / "whole", report=False).folder, tmp_path / "run"
    image = tmp_path / "images" / "train" / "class1" / "7.png"
    with pytest.raises(
        DataError, match=rf"^{image} is gone: it was there when the folder was scanned; .* put the file back, or start over"
    ):
        run_recipe(recipe, output=folder, observers=[At(StepEnd, "pretrain", 10, lambda: image.rename(tmp_path / "away.png"))])
    assert load_tensors(max((folder / "pretrain").glob("checkpoint-*")))[1]["step"] >= 10
    (tmp_path / "away.png").rename(image)
    assert_goes_on(recipe, folder, whole)


# ------------------------------------------------------------------------------------------------------------------- memory

SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from sslkit.cli import commands as cli
from sslkit.run import runner  # with all that they import: what is left is for the run alone
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
cli.main()
"""
"""Address space, not memory, is what can be limited: each thread reserves tens of MiB of it, so there is one."""


@pytest.mark.slow
def test_memory_that_does_not_suffice_is_said_with_what_to_lower(tmp_path: Path):
    (tmp_path / "small.toml").write_text(
        SMALL.replace("width = 0.05", "width = 1.0").replace('name = "digits"', 'name = "digits"\nimage_size = 64')
    )
    (tmp_path / "short.py").write_text(SHORT_OF_MEMORY)
    command = [sys.executable, "short.py", "run", "small.toml", "--quiet", "stages.pretrain.batch_size=1000", 'precision="float32"']
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr == (
        "error: out of memory on cpu in stage 'pretrain' (batch_size 1000, images of 64 x 64 pixels); "
        "lower batch_size or image_size, or take a smaller backbone; checkpoints are kept\n"
    )


class TooManyImages(Dataset):
    """Images that no memory holds."""

    def image(self) -> ImageSpec:
        return Digits().image()

    def load(self, split: Split) -> ImageSet | None:
        torch.empty(2**50, dtype=torch.uint8)


def test_memory_that_does_not_suffice_for_the_images_is_said_as_well(recipe: Recipe):
    with pytest.raises(RunFailedError, match=r"^out of memory on cpu in reading the pretrain images; lower batch_size or image_size"):
        check(recipe, OpenedDataset(TooManyImages()))


# ------------------------------------------------------------------------------------------------------------------- folder


def test_a_damaged_artifact_is_named_and_only_its_stage_is_to_be_run_again(recipe: Recipe, whole: Path, folder: Path):
    (folder / "probe" / ARTIFACT).write_text('{"stage": "pro')
    with pytest.raises(ArtifactError, match=rf"^{folder / 'probe' / ARTIFACT}: damaged \(.*\); remove it and run the recipe again$"):
        run_recipe(recipe, output=folder)
    (folder / "probe" / ARTIFACT).unlink()
    assert_goes_on(recipe, folder, whole)


def test_damaged_weights_of_a_finished_stage_are_named(recipe: Recipe, folder: Path):
    path = folder / "pretrain" / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=rf"^{path}: damaged \(its checksum is wrong\); remove the folder {path.parent} to run that stage again$"
    ):
        run_recipe(recipe, output=folder)


@pytest.mark.parametrize("status", ["running", "finished"])
def test_a_folder_of_another_version_is_refused_with_what_to_do(status: str, recipe: Recipe, folder: Path):
    artifact = read_json(folder / "pretrain" / ARTIFACT)
    write_json(folder / "pretrain" / ARTIFACT, {**artifact, "format": 0, "status": status})
    with pytest.raises(
        ArtifactError,
        match=rf"^{folder / 'pretrain'}: was written by another version of sslkit \(format 0, not 2\); "
        r"resume it with that version, start over with --fresh, or choose another folder with --output$",
    ):
        run_recipe(recipe, output=folder)
    assert read_json(folder / "pretrain" / ARTIFACT)["format"] == 0


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", ["pretrain", "pretrain/metrics.jsonl", "pretrain/snapshots", "probe/artifact.json", "tables", "variants"])
def test_a_link_in_a_runs_folder_is_refused_and_not_followed(place: str, fresh: bool, recipe: Recipe, folder: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ARTIFACT).write_text(json.dumps({"status": "running"}))
    link = folder / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(victim / ARTIFACT if link.suffix else victim)
    with pytest.raises(
        ArtifactError, match=rf"^{link}: is a link, which a run writes into only if it is the run's whole folder; remove the link"
    ):
        run_recipe(recipe, output=folder, fresh=fresh)
    assert [path.name for path in victim.iterdir()] == [ARTIFACT]
    assert read_json(victim / ARTIFACT) == {"status": "running"}


def test_a_runs_whole_folder_may_be_a_link(recipe: Recipe, whole: Path, tmp_path: Path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large_disk")
    assert_goes_on(recipe, tmp_path / "run", whole)
    assert (tmp_path / "large_disk" / "results.json").exists()


def test_what_a_kill_left_half_written_is_removed(recipe: Recipe, whole: Path, folder: Path):
    for place in (
        f"{name}.tmp-0123456789abcdef" for name in ("results.json", "tables/results.csv", "pretrain/checkpoint-000000002.safetensors")
    ):
        (folder / place).write_bytes(b"half")
    assert_goes_on(recipe, folder, whole)
    assert not list(folder.rglob("*.tmp-*"))


def test_an_artifact_without_metrics_is_damaged(recipe: Recipe, whole: Path, folder: Path):
    artifact = read_json(folder / "probe" / ARTIFACT)
    del artifact["metrics"]
    write_json(folder / "probe" / ARTIFACT, artifact)
    with pytest.raises(ArtifactError, match=r"artifact\.json: damaged \(metrics: missing\); remove it and run the recipe again$"):
        run_recipe(recipe, output=folder)
    (folder / "probe" / ARTIFACT).unlink()
    assert_goes_on(recipe, folder, whole)


def test_a_folder_that_holds_ones_own_recipe_is_left_alone(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "recipe.toml").write_text("# mine")
    with pytest.raises(ArtifactError, match=r"holds a recipe\.toml that no run wrote, which would be replaced; choose another folder"):
        run_recipe(recipe, output=tmp_path)
    assert (tmp_path / "recipe.toml").read_text() == "# mine"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in ("", ".", tmp_path / "here"):
        with pytest.raises(ArtifactError, match=r"^the current folder cannot be a run's; choose another folder with --output$"):
            run_recipe(recipe, output=output)
    assert list(tmp_path.joinpath("here").iterdir()) == []


def test_a_pipe_in_the_place_of_a_runs_recipe_is_not_waited_for(folder: Path):
    (folder / "recipe.toml").unlink()
    os.mkfifo(folder / "recipe.toml")
    with pytest.raises(ArtifactError, match=r"recipe\.toml: is not a file; run the recipe again in another folder$"):
        write_report([folder])


def test_checkpoints_that_a_kill_left_in_a_finished_stage_are_removed(recipe: Recipe, whole: Path, folder: Path):
    """Written earlier than the one that stays."""
    (folder / "pretrain" / "checkpoint-000000001.safetensors").touch()
    assert_goes_on(recipe, folder, whole)


def test_a_new_start_that_is_cut_short_leaves_nothing_that_could_be_taken_for_its_own(recipe: Recipe, whole: Path, tmp_path: Path):
    """``--fresh`` was killed after it had removed the artifact: what is left is a checkpoint of other options, and their metrics."""
    folder = tmp_path / "run"
    stopped = At(StepEnd, "pretrain", 4, lambda: _raise(StorageError("x: full")))
    other = replace(recipe, stages=tuple(replace(stage, seed=7) for stage in recipe.stages))
    with pytest.raises(RunFailedError):
        run_recipe(other, output=folder, observers=[stopped])
    assert list((folder / "pretrain").glob("checkpoint-*"))
    (folder / "pretrain" / ARTIFACT).unlink()
    (folder / "pretrain" / "snapshots").mkdir()
    for name in ("heads.safetensors", "snapshots/epoch-0007.safetensors"):
        (folder / "pretrain" / name).write_bytes(b"of another recipe")
    assert_goes_on(recipe, folder, whole)


@pytest.mark.parametrize(("step", "refused"), [(0, False), (2, True)])
def test_a_stage_that_failed_before_its_first_step_may_be_mended(step: int, refused: bool, recipe: Recipe, whole: Path, tmp_path: Path):
    """An image that cannot be decoded, an error of a plugin: what is changed to mend it makes another stage, and nothing is lost."""
    folder = tmp_path / "run"
    other = replace(recipe, stages=tuple(replace(stage, seed=7) for stage in recipe.stages))
    failing = At(StepEnd if step else StageStart, "pretrain", step, lambda: _raise(StorageError("x: full")))
    with pytest.raises(RunFailedError):
        run_recipe(other, output=folder, observers=[failing], report=False)
    with pytest.raises(ArtifactError, match="holds stage 'pretrain' of a different recipe") if refused else nullcontext():
        assert_goes_on(recipe, folder, whole)


def test_starting_over_removes_the_artifact_first(recipe: Recipe, whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):

    def killed(path: Path) -> None:
        assert not (path / ARTIFACT).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=folder, fresh=True)
    monkeypatch.undo()
    assert_goes_on(recipe, folder, whole)


def test_a_run_that_fails_lets_go_of_its_folder(recipe: Recipe, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(RunFailedError):
        run_recipe(recipe, output=folder, observers=[At(StepEnd, "pretrain", 2, lambda: _raise(StorageError("x: full")))])
    assert_goes_on(recipe, folder, whole)


def _raise(error: Exception) -> None:
    raise error
