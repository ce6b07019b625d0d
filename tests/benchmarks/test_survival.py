"""The harness that kills runs: a handful of kills, and that it would notice what it looks for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sslkit.run.artifacts import ARTIFACT
from sslkit.storage.json_files import read_json, write_json
from survival.remains import differences, moment_of
from survival.trial import Trial
from survival.variants import VARIANTS, Variant

pytestmark = pytest.mark.slow  # a whole run, and processes that are killed

SHORT = Variant(VARIANTS["evaluators"].text.partition("[stages.mlp]")[0])
"""Pretraining and one probe."""


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    trial = Trial("short", SHORT, tmp_path_factory.mktemp("trial"), seed=0)
    trial.run_whole()
    return trial


@pytest.fixture
def whole(trial: Trial) -> Path:
    return trial.whole


def test_a_handful_of_kills_loses_nothing(trial: Trial):
    trial.survive(times=2, writes=2)
    assert trial.toll.problems == []
    assert trial.toll.kills == {"a random time": 2, "a random write": 2}
    assert sum(trial.toll.moments.values()) == 4
    assert trial.toll.runs >= 1


def turn_a_bit(folder: Path) -> None:
    path = folder / "pretrain" / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_a_metric(folder: Path) -> None:
    path = folder / "pretrain" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"loss": 1', '"loss": 2', 1))


def change_a_result(folder: Path) -> None:
    results = read_json(folder / "results.json")
    results["stages"]["linear"]["conv1.top1"] += 1e-9
    write_json(folder / "results.json", results)


def repeat_a_line(folder: Path) -> None:
    path = folder / "linear" / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (turn_a_bit, "weights: pretrain/backbone.safetensors"),
        (change_a_metric, "metrics: pretrain/metrics.jsonl"),
        (repeat_a_line, "metrics: linear/metrics.jsonl"),
        (change_a_result, "results.json: stages"),
        (lambda folder: (folder / "linear" / "heads.safetensors").unlink(), "weights: linear/heads.safetensors"),
        (
            lambda folder: (folder / "linear" / "heads.safetensors.tmp-0123456789abcdef").touch(),
            "linear/heads.safetensors.tmp-0123456789abcdef: left behind",
        ),
        (lambda folder: (folder / "report.html").unlink(), "report.html: missing"),
        (lambda folder: (folder / "linear" / ARTIFACT).unlink(), "fingerprints: linear"),
    ],
)
def test_the_harness_sees_every_kind_of_loss(damage: Callable[[Path], object], problem: str, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    assert differences(folder, whole) == []
    damage(folder)
    assert differences(folder, whole) == [problem]


def test_the_folder_tells_the_moment_of_a_kill(whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert moment_of(folder) == "before the first stage"
    (folder / "recipe.toml").touch()
    assert moment_of(folder) == "between stages"
    (folder / "pretrain").mkdir()
    shutil.copy(whole / "pretrain" / ARTIFACT, folder / "pretrain")
    assert moment_of(folder) == "between stages"
    (folder / "linear").mkdir()
    artifact = {**read_json(whole / "linear" / ARTIFACT), "status": "running"}
    write_json(folder / "linear" / ARTIFACT, artifact)
    assert moment_of(folder) == "in LinearProbe"
    (folder / "linear" / "heads.safetensors.tmp-0123456789abcdef").touch()
    assert moment_of(folder) == "while a file was written"
    assert moment_of(whole) == "in the report"
    assert json.loads((whole / "results.json").read_text())["pending"] == []
