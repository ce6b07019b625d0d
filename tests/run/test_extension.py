"""``--extend``: a finished or diverged pretraining continues with more epochs, and says so."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sslkit import (
    AdamW,
    ArtifactError,
    DivergedError,
    RunInterruptedError,
    Schedule,
    StageEnd,
    StageSkipped,
    TrainingOptions,
    load_recipe,
    run_recipe,
)
from sslkit.report.run_folder import read_run
from sslkit.report.run_tables import facts_table
from sslkit.run.artifacts import read_artifact
from sslkit.run.stages import _continued
from sslkit.storage.identity import plain
from sslkit.training.schedules import Constant, Cosine, MultiStep
from tests.observers import Recorder, stop_after
from tests.recipes import SMALL, changed, refusal, steps_logged, weights

RECIPE = changed(
    "data.max_images=60",
    "stages.pretrain.batch_size=20",
    'stages.probe.evaluator={ name = "knn", layers = ["conv2"] }',
    text=SMALL,
)
CONSTANT = "stages.pretrain.schedule=constant"
LONGER = "stages.pretrain.epochs=3"


class Runs:
    """Runs of the small recipe in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.toml").write_text(RECIPE)

    def __call__(self, name: str, *overrides: str, **options: Any) -> Recorder:
        seen = Recorder()
        run_recipe(
            load_recipe(self.folder / "small.toml", overrides),
            output=self.folder / name,
            **{"observers": [seen], "report": False, **options},
        )
        return seen

    def refused(self, name: str, *overrides: str, **options: Any) -> str:
        return refusal(ArtifactError, self, name, *overrides, **options).replace(f"{self.folder}/", "")

    def extended(self, name: str, stage: str = "pretrain") -> dict[str, Any]:
        return read_artifact(self.folder / name / stage)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def outcome(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in weights(folder).items() if "checkpoint" not in name}


def test_with_a_constant_rate_it_ends_with_the_bits_of_a_longer_run(runs: Runs):
    runs("short", CONSTANT)
    before = runs.extended("short")
    assert runs.refused("short", CONSTANT, LONGER).endswith(
        "short/pretrain: holds stage 'pretrain' of a different recipe (stages.pretrain.epochs: 1 -> 3); continue it with --extend, "
        "remove that folder to run this stage again, start over with --fresh, or choose another folder with --output"
    )
    seen = runs("short", CONSTANT, LONGER, extend=True)
    assert "continues a training of 1 epoch after step 3, and has 3 now" in seen.messages()
    assert "begins anew, because the network that it takes was trained for longer" in seen.messages()
    runs("long", CONSTANT, LONGER)
    assert outcome(runs.folder / "short") == outcome(runs.folder / "long")
    logs = [steps_logged(runs.folder / name / "pretrain" / "metrics.jsonl") for name in ("short", "long")]
    assert logs[0] == logs[1]

    after = runs.extended("short")
    assert after["identity"]["extended"] == [
        {"epochs": 1, "steps": 3, "schedule": {"class": "sslkit.training.schedules:Constant", "warmup_epochs": 0.0}}
    ]
    (part,) = after["extended"]
    assert (part["epochs"], part["status"], part["metrics"]) == (1, "finished", before["metrics"])
    (ended,) = [event.seconds for event in seen.events if isinstance(event, StageEnd) and event.stage == "pretrain"]
    assert after["seconds"] == pytest.approx(before["seconds"] + ended, abs=0.002), "of both parts"
    assert after["fingerprint"] not in (before["fingerprint"], runs.extended("long")["fingerprint"]), "it is not taken for either"
    assert runs.extended("short", "probe")["identity"]["backbone"]["weights"] == after["fingerprint"]
    for options in ({}, {"extend": True}):
        assert runs("short", CONSTANT, LONGER, **options).stages(StageSkipped) == ["pretrain", "probe"], "started again, it is finished"
    assert "pretrain: 1 + 2 epochs" in facts_table(read_run(runs.folder / "short")).markdown()

    again = runs("short", CONSTANT, "stages.pretrain.epochs=4", extend=True)
    assert again.stages(StageEnd) == ["pretrain", "probe"]
    third = runs.extended("short")
    (ended,) = [event.seconds for event in again.events if isinstance(event, StageEnd) and event.stage == "pretrain"]
    assert third["seconds"] == pytest.approx(after["seconds"] + ended, abs=0.002), "of all three"


@pytest.mark.parametrize(
    ("schedule", "after", "differs"),
    [
        (Constant(), Constant(), ""),
        (Constant(warmup_epochs=1), Constant(warmup_epochs=1), ""),
        (MultiStep(milestones=(1, 5)), MultiStep(milestones=(1, 5)), ""),
        (Cosine(), Cosine(), "learning rate, pace"),
        (Constant(), Cosine(), "learning rate, pace"),
    ],
)
def test_a_note_says_what_differs_from_a_run_that_was_longer_from_the_start(schedule: Schedule, after: Schedule, differs: str):
    schedules = {"pace": lambda progress: 1 - progress, "still": lambda _progress: 0.5} if differs else {}
    objective: Any = SimpleNamespace(schedules=lambda: schedules, phases=("main",), parameter_groups=lambda: {"main": [{}]})
    before = {"epochs": 4, "steps": 1200, "schedule": plain(schedule)}
    note = _continued(before, TrainingOptions(epochs=10, schedule=after), objective)
    text = "continues a training of 4 epochs after step 1,200, and has 10 now"
    assert note == (f"{text}; what it had before differs from 10 epochs from the start: {differs}" if differs else text)


@pytest.mark.parametrize(("optimizer", "group"), [(AdamW(final_weight_decay=0.4), {}), (AdamW(), {"final_weight_decay": 0.4})])
def test_the_note_names_a_weight_decay_that_moves(optimizer: AdamW, group: dict[str, float]):
    objective: Any = SimpleNamespace(schedules=dict, phases=("main",), parameter_groups=lambda: {"main": [group]})
    before = {"epochs": 4, "steps": 1200, "schedule": plain(Constant())}
    note = _continued(before, TrainingOptions(epochs=10, schedule=Constant(), optimizer=optimizer), objective)
    assert note.endswith("from the start: weight decay")


@pytest.mark.slow
def test_with_a_cosine_it_says_that_the_rates_were_others(runs: Runs):
    runs("short")
    seen = runs("short", LONGER, extend=True)
    assert (
        "continues a training of 1 epoch after step 3, and has 3 now; what it had before differs from 3 epochs from the start: learning rate"
        in seen.messages()
    )
    again = runs("short", "stages.pretrain.epochs=4", CONSTANT, extend=True)
    assert any("continues a training of 3 epochs after step 9, and has 4 now; what" in message for message in again.messages())
    parts = runs.extended("short")["identity"]["extended"]
    assert [(part["epochs"], part["schedule"]["class"].rpartition(":")[2]) for part in parts] == [(1, "Cosine"), (3, "Cosine")]


@pytest.mark.slow
def test_a_step_schedule_with_the_same_milestones_is_as_from_the_start(runs: Runs):
    schedule = 'stages.pretrain.schedule={ name = "step", milestones = [2], gamma = 0.1 }'
    runs("short", schedule)
    seen = runs("short", schedule, LONGER, extend=True)
    runs("long", schedule, LONGER)
    assert "continues a training of 1 epoch after step 3, and has 3 now" in seen.messages()
    assert outcome(runs.folder / "short") == outcome(runs.folder / "long")


def test_killed_while_it_is_extended_it_resumes(runs: Runs):
    runs("short", CONSTANT)
    runs("long", CONSTANT, LONGER)
    with pytest.raises(RunInterruptedError):
        runs("short", CONSTANT, LONGER, extend=True, **stop_after(4))
    assert runs.extended("short")["status"] == "running"
    probe_left = runs.refused("short", CONSTANT, LONGER)
    assert "holds stage 'probe' of a different recipe (stages.probe.weights: " in probe_left, "what is done again is only done on request"
    runs("short", CONSTANT, LONGER, extend=True)
    assert outcome(runs.folder / "short") == outcome(runs.folder / "long")


@pytest.mark.slow
def test_cut_short_before_anything_is_written_it_begins_again(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    runs("short", CONSTANT)
    with monkeypatch.context() as patch:
        patch.setattr("sslkit.run.stage_folder.describe_environment", lambda _device: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            runs("short", CONSTANT, LONGER, extend=True)
    assert runs("short", CONSTANT).stages(StageSkipped) == ["pretrain", "probe"], "the finished run is still one"
    runs("short", CONSTANT, LONGER, extend=True)
    runs("long", CONSTANT, LONGER)
    assert outcome(runs.folder / "short") == outcome(runs.folder / "long")


def test_a_diverged_run_continues_with_what_holds_it_back(runs: Runs):
    steep = (
        "checkpoint_minutes=0.0",
        "stages.pretrain.optimizer={ name = 'sgd', lr = 1e13, momentum = 0.0, nesterov = false, weight_decay = 0.0 }",
        'stages.pretrain.schedule={ name = "constant", warmup_epochs = 1 }',
    )
    with pytest.raises(DivergedError):  # after a step at a rate of 0, and so after a checkpoint
        runs("steep", *steep)
    held = (*steep, "stages.pretrain.clip_grad_norm=1e-15")
    assert "holds stage 'pretrain' of a different recipe (stages.pretrain.clip_grad_norm: None -> 1e-15)" in runs.refused("steep", *held)
    runs("steep", *held, extend=True)
    assert runs.extended("steep")["status"] == "finished"
    assert runs.extended("steep")["extended"] == [{"epochs": 1, "status": "running"}]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ((LONGER, "stages.pretrain.batch_size=30"), "--extend cannot change stages.pretrain.batch_size"),
        ((LONGER, "deterministic=true"), "--extend cannot change deterministic"),
        (("stages.pretrain.clip_grad_norm=1.0",), "--extend needs more than the 2 epochs that there were"),
        (("stages.pretrain.epochs=1",), "--extend needs more than the 2 epochs that there were"),
        ((LONGER, "stages.pretrain.snapshot_epochs=[1]"), "--extend keeps the earlier snapshot_epochs, and adds later ones alone"),
        (("stages.probe.evaluator.k=2",), "--extend cannot change stages.probe.evaluator.k"),
    ],
)
def test_what_cannot_be_continued_is_refused_and_stays(overrides: tuple[str, ...], why: str, finished: Runs):
    before = weights(finished.folder)
    message = finished.refused("run", "stages.pretrain.epochs=2", *overrides, extend=True)
    assert f"; {why.split(' epochs', maxsplit=1)[0]}" in message, message
    assert weights(finished.folder) == before


def test_a_checkpoint_is_needed(runs: Runs):
    runs("short", CONSTANT)
    for path in (runs.folder / "short" / "pretrain").glob("checkpoint-*"):
        path.unlink()
    assert "; --extend finds no checkpoint; " in runs.refused("short", CONSTANT, LONGER, extend=True)


def test_later_snapshots_may_be_added(finished: Runs):
    finished("run", "stages.pretrain.epochs=3", "stages.pretrain.snapshot_epochs=[3]", extend=True)
    assert [path.name for path in (finished.folder / "run" / "pretrain" / "snapshots").iterdir()] == ["epoch-0003.safetensors"]


@pytest.fixture
def finished(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Runs:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(trained / "run", folder / "run")
    return Runs(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    Runs(folder)("run", "stages.pretrain.epochs=2")
    return folder


@pytest.mark.slow
def test_a_hand_made_history_is_no_way_to_another_result(runs: Runs):
    runs("short", CONSTANT)
    path = runs.folder / "short" / "pretrain" / "artifact.json"
    artifact = json.loads(path.read_text())
    artifact["identity"]["extended"] = [{"epochs": 1}]
    path.write_text(json.dumps(artifact))
    runs("short", CONSTANT)  # the fingerprint is that of the stage itself
    assert "different recipe" in runs.refused("short", CONSTANT, LONGER)
