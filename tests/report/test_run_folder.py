import re
from pathlib import Path

import pytest

from sslkit import ArtifactError
from sslkit.report.run_folder import read_run
from sslkit.storage.json_files import write_json
from tests.report.run_folders import ENVIRONMENT, MakeRun, make_run, train_line

STAGES = {"pretrain": {"pretext_top1": 93.0}, "blocks3/probe": {"conv2.top1": 90.0}}


def test_a_finished_run(run_of: MakeRun, tmp_path: Path):
    paper = {"blocks3/probe.conv2.top1": 91.16}
    margins = {"gain": ("blocks3/probe.conv2.top1", "pretrain.pretext_top1")}
    run = run_of(STAGES, paper=paper, margins=margins, logs={"pretrain": [train_line(1, loss=2.0)]})
    assert (run.name, run.finished, run.folder) == ("mine", True, tmp_path)
    assert run.results.stages == STAGES
    assert run.results.paper == paper
    assert [margin.difference for margin in run.results.differences()] == [-3.0]
    assert [stage.key for stage in run.stages] == list(STAGES)
    assert [stage.pretrains for stage in run.stages] == [True, False]
    assert [len(stage.log) for stage in run.stages] == [1, 0]
    assert [[found.model_dump() for found in stage.artifact.environments] for stage in run.stages] == [[ENVIRONMENT], [ENVIRONMENT]]
    assert run.recipe["data"] == {"name": "digits"}
    assert 'name = "mine"' in run.recipe_text


def test_an_unfinished_run_says_what_is_still_to_run(run_of: MakeRun):
    run = run_of(STAGES, begun=["knn"], pending=["knn", "finetune"])
    assert not run.finished
    assert run.results.pending == ["knn", "finetune"]
    assert run.results.stages == STAGES
    assert [stage.key for stage in run.stages] == ["pretrain", "blocks3/probe", "knn"]


def test_a_run_that_goes_on_shows_what_it_had_finished_before(tmp_path: Path):
    """results.json is written anew, stage by stage."""
    make_run(tmp_path, {"pretrain": STAGES["pretrain"]}, pending=["blocks3/probe"])
    saved = (tmp_path / "results.json").read_text()
    make_run(tmp_path, STAGES)
    (tmp_path / "results.json").write_text(saved)
    run = read_run(tmp_path)
    assert (run.results.stages, run.finished) == (STAGES, True)


def test_a_run_that_has_just_begun(tmp_path: Path):
    make_run(tmp_path, {})
    (tmp_path / "results.json").unlink()
    run = read_run(tmp_path)
    assert (run.name, run.finished, run.stages) == ("mine", False, ())
    write_json(tmp_path / "pretrain" / "artifact.json", {"status": "running"})
    run = read_run(tmp_path)
    assert (run.finished, run.results.pending, run.results.rows()) == (False, ["pretrain"], [])


def test_folders_of_older_versions(tmp_path: Path):
    """Without the list of what is still to run, what lies on disk counts; snapshots in the order of their epochs."""
    make_run(tmp_path, {f"object/epoch={epoch}": {"conv2.top1": 1.0 * epoch} for epoch in (10, 9)})
    write_json(tmp_path / "results.json", {"recipe": "mine", "stages": {}})
    run = read_run(tmp_path)
    assert list(run.results.stages) == ["object/epoch=9", "object/epoch=10"]
    assert run.finished


def test_the_variants_of_a_sweep(tmp_path: Path):
    make_run(tmp_path, STAGES)
    assert read_run(tmp_path).variants == ()
    (tmp_path / "variants").mkdir()
    for name in ("gamma=0.2", "blocks3"):
        (tmp_path / "variants" / f"{name}.toml").touch()
    assert read_run(tmp_path).variants == ("blocks3", "gamma=0.2")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "nowhere: no such folder; name a folder that sslkit run wrote"),
        ("runs/mine/pretrain", "pretrain: not a run's folder, because it holds no recipe.toml; name the whole run: "),
        ("runs", "runs: not a run's folder, because it holds no recipe.toml; name a run in it: mine"),
        (".", "not a run's folder, because it holds no recipe.toml; name a folder that sslkit run wrote"),
    ],
)
def test_what_is_no_run_is_refused(folder: str, message: str, tmp_path: Path):
    make_run(tmp_path / "runs" / "mine", STAGES)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        read_run(tmp_path / folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.toml", b"name = "),
        ("recipe.toml", b"seed = 0"),
        ("recipe.toml", b'name = "a"\npaper = 3'),
        ("recipe.toml", b"\xff"),
        ("results.json", b"{"),
        ("pretrain/artifact.json", b'{"environments": [3]}'),
        ("pretrain/artifact.json", b"x"),
    ],
)
def test_a_damaged_file_is_named(file: str, content: bytes, tmp_path: Path):
    make_run(tmp_path, STAGES)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{re.escape(file)}: (damaged|not a JSON object)"):
        read_run(tmp_path)
