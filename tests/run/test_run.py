import contextlib
import json
import os
import shutil
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from sslkit import (
    ArtifactError,
    CheckpointSaved,
    DataFound,
    Event,
    FitStart,
    Notice,
    Observer,
    RecipeError,
    RunInterruptedError,
    StageEnd,
    StageSkipped,
    StageStart,
    StepEnd,
    load_backbone,
    load_catalog,
    load_recipe,
    run_recipe,
)
from sslkit.recipe.recipe import Recipe
from sslkit.run.artifacts import ARTIFACT, BACKBONE, HEADS, METRICS, PREDICTIONS
from sslkit.run.runner import RunResult
from sslkit.storage.identity import state_hash
from tests.observers import Recorder, stop_after
from tests.recipes import HEAD, PRETRAIN, SMALL, changed, steps_logged, weights

# Every kind of evaluator once, an epoch each, on 1,438 digits: three steps an epoch.
RECIPE = (
    changed("name=tiny", "seed=3", "stages.pretrain.epochs=2", text=HEAD + PRETRAIN)
    + """
[stages.linear]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv1", "conv2"], epochs = 1, batch_size = 500 }

[stages.mlp]
weights = "pretrain"
evaluator = { name = "mlp_probe", layers = ["conv2"], hidden = 20, epochs = 1, batch_size = 500 }

[stages.conv]
weights = "pretrain"
evaluator = { name = "conv_probe", layers = ["conv1"], epochs = 1, batch_size = 500, augment = { horizontal_flip = true } }

[stages.random_conv]
weights = "random"
evaluator = { name = "conv_probe", layers = ["conv1"], epochs = 1, batch_size = 500 }

[stages.knn]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv1", "conv3"], k = 5 }

[stages.finetune]
weights = "pretrain"
evaluator = { name = "finetune", epochs = 1, batch_size = 500 }

[stages.tuned_knn]
weights = "finetune"
evaluator = { name = "knn", layers = ["conv3"] }

[stages.supervised]
weights = "random"
backbone = { num_blocks = 4 }
evaluator = { name = "supervised", layer = "conv2", head = "mlp", epochs = 1, batch_size = 500 }

[stages.few]
weights = "pretrain"

[stages.few.evaluator]
name = "semi_supervised"
labels_per_class = [1, 5]
selection = "random"
num_subsets = 2
images_per_epoch = 150
layers = ["conv2"]
head = "linear"
epochs = 1
batch_size = 50

[stages.supervised_few]
weights = "random"

[stages.supervised_few.evaluator]
name = "semi_supervised"
labels_per_class = [5]
images_per_epoch = 150
layers = ["conv3"]
freeze = false
epochs = 1
batch_size = 50

[paper]
"linear.conv2.top1" = 91.16

[margins]
"trained over random" = ["conv.conv1.top1", "random_conv.conv1.top1"]
"""
)

METRICS_OF = {
    "pretrain": ["pretext_loss", "pretext_top1"],
    "linear": ["conv1.top1", "conv2.top1"],
    "mlp": ["conv2.top1"],
    "conv": ["conv1.top1"],
    "random_conv": ["conv1.top1"],
    "knn": ["conv1.top1", "conv3.top1"],
    "finetune": ["conv3.top1"],
    "tuned_knn": ["conv3.top1"],
    "supervised": ["conv2.top1"],
    "few": ["conv2.k1.top1", "conv2.k1.top1_std", "conv2.k5.top1", "conv2.k5.top1_std"],
    "supervised_few": ["conv3.k5.top1"],
}
WITH_BACKBONE = {"pretrain", "finetune", "supervised"}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    catalog = load_catalog()
    folder = tmp_path_factory.mktemp("recipes")

    def from_text(text: str, *overrides: str) -> Recipe:
        (folder / "mine.toml").write_text(text)
        return load_recipe(folder / "mine.toml", overrides, catalog=catalog)

    return from_text


class Whole:
    """An uninterrupted run of the large recipe, and what its observers saw."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        watcher = Recorder()
        self.recipe = recipe
        self.result: RunResult = run_recipe(recipe, output=folder, observers=[watcher])
        self.events = watcher
        self.folder = folder


@pytest.fixture(scope="module")
def whole(load: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(load(RECIPE), tmp_path_factory.mktemp("runs") / "whole")


def artifact(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ARTIFACT).read_text())


# --------------------------------------------------------------------------------------------------------------- what it leaves


def test_a_run_measures_every_stage(whole: Whole):
    results = whole.result.results
    assert {stage: list(metrics) for stage, metrics in results.stages.items()} == METRICS_OF
    assert list(results.stages) == list(METRICS_OF)
    figures = [value for metrics in results.stages.values() for name, value in metrics.items() if name.endswith("top1")]
    assert all(0 <= value <= 100 for value in figures)
    assert all(value * 357 / 100 == pytest.approx(round(value * 357 / 100), abs=1e-3) for value in figures if "few" not in results.stages)
    (margin,) = results.differences()
    assert margin.difference == results.stages["conv"]["conv1.top1"] - results.stages["random_conv"]["conv1.top1"]


def test_results_json_holds_the_same_figures(whole: Whole):
    saved = json.loads((whole.folder / "results.json").read_text())
    results = whole.result.results
    assert saved == {
        "recipe": "tiny",
        "stages": results.stages,
        "paper": {"linear.conv2.top1": 91.16},
        "margins": {"trained over random": results.differences()[0].difference},
        "pending": [],
    }
    assert all(artifact(whole.folder / stage)["metrics"] == metrics for stage, metrics in saved["stages"].items())


def test_the_run_folder_is_complete(whole: Whole):
    assert whole.result.folder == whole.folder
    files = {".lock", "recipe.toml", "results.json", "report.html", "report.md", "tables"}
    assert {path.name for path in whole.folder.iterdir()} == {*files, *METRICS_OF}
    for stage in METRICS_OF:
        expected = {ARTIFACT}
        expected |= {METRICS} if "knn" not in stage else set()
        expected |= {BACKBONE} if stage in WITH_BACKBONE else set()
        expected |= {PREDICTIONS} if "few" not in stage else set()
        expected |= {HEADS} if stage in {"linear", "mlp", "conv", "random_conv", "finetune", "supervised"} else set()
        names = {path.name for path in (whole.folder / stage).iterdir()}
        assert len({name for name in names if name.startswith("checkpoint-")}) == (1 if stage == "pretrain" else 0)
        assert {name for name in names if not name.startswith("checkpoint-")} == expected, stage
        assert artifact(whole.folder / stage)["status"] == "finished"


def test_the_resolved_recipe_is_that_of_the_run(whole: Whole, load: Callable[..., Recipe]):
    text = (whole.folder / "recipe.toml").read_text()
    assert load(text) == load(RECIPE)
    assert tomllib.loads(text)["stages"]["pretrain"]["optimizer"]["lr"] == 0.1


def test_the_environment_says_what_a_figure_needs_beside_it(whole: Whole):
    (environment,) = artifact(whole.folder / "linear")["environments"]
    assert environment["versions"]["torch"] == torch.__version__
    assert set(environment["plugins"]) == {"sslkit"}
    loaded = {plugin["name"]: plugin for plugin in environment["code"]["plugins"]}
    assert loaded["rotnet"] == {"name": "rotnet", "distribution": "sslkit", "version": version("sslkit"), "state": "loaded"}
    assert set(environment) == {
        "started",
        "command",
        "commit",
        "python",
        "platform",
        "device",
        "threads",
        "versions",
        "plugins",
        "code",
    }
    for stage in METRICS_OF:
        found = artifact(whole.folder / stage)
        assert (found["environments"][0]["device"], found["environments"][0]["started"] <= found["finished"]) == (
            environment["device"],
            True,
        )


def test_frozen_backbones_are_the_pretrained_one_bit_for_bit(whole: Whole):
    expected = state_hash(load_backbone(whole.folder))
    for stage in ("linear", "mlp", "conv", "knn", "few"):
        assert artifact(whole.folder / stage)["frozen_backbone"] == {"sha256_before": expected, "sha256_after": expected}
    tuned = state_hash(load_backbone(whole.folder / "finetune"))
    assert artifact(whole.folder / "tuned_knn")["frozen_backbone"]["sha256_before"] == tuned != expected
    random = artifact(whole.folder / "random_conv")["frozen_backbone"]["sha256_before"]
    assert random not in {expected, tuned}


def test_a_stages_identity_names_the_weights_it_started_from(whole: Whole):
    identities = {stage: artifact(whole.folder / stage)["identity"]["backbone"] for stage in METRICS_OF}
    marks = {stage: artifact(whole.folder / stage)["fingerprint"] for stage in METRICS_OF}
    assert identities["pretrain"]["weights"] == identities["supervised"]["weights"] == "random"
    assert {identities[stage]["weights"] for stage in ("linear", "mlp", "conv", "knn", "finetune", "few")} == {marks["pretrain"]}
    assert identities["tuned_knn"]["weights"] == marks["finetune"]
    assert len(set(marks.values())) == len(marks)
    assert identities["supervised"]["options"]["num_blocks"] == 4


def test_a_backbone_comes_back_ready_to_use(whole: Whole):
    backbone = load_backbone(whole.folder / "supervised")
    assert backbone.layer_names == ("conv1", "conv2", "conv3", "conv4")
    assert (backbone.image.color, backbone.image.height) == ("gray", 8)
    assert backbone.embed(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


def test_events_come_stage_by_stage(whole: Whole):
    assert whole.events.stages(StageStart) == whole.events.stages(StageEnd) == list(METRICS_OF)
    assert isinstance(whole.events.events[0], DataFound)  # of no stage
    order = list(dict.fromkeys(event.stage for event in whole.events.events if event.stage))
    assert order == list(METRICS_OF)
    assert [event.part for event in whole.events.of(FitStart) if event.stage == "few"] == ["k1-1", "k1-2", "k5-1", "k5-2"]


def test_the_report_shows_the_run(whole: Whole):
    page = (whole.folder / "report.html").read_text()
    for stage, metrics in whole.result.results.stages.items():
        assert all(f"<td>{stage}</td><td><code>{name}</code></td>" in page for name in metrics)
    assert "91.16" in page
    assert "trained over random" in page
    assert "Attention maps" in page


def test_a_report_that_fails_does_not_take_the_run_down(load: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object) -> None:
        raise RuntimeError("no\nroom")

    monkeypatch.setattr("sslkit.report.run.write_run_report", fail)
    watcher = Recorder()
    done = run_recipe(load(SMALL), output=tmp_path, observers=[watcher])
    assert list(done.results.stages) == ["pretrain", "probe"]
    (notice,) = [event for event in watcher.of(Notice) if event.stage == "report"]
    assert notice.message == f"the report could not be written (RuntimeError: no room); this tries again: sslkit report {tmp_path}"
    assert json.loads((tmp_path / "results.json").read_text())["pending"] == []


def test_results_json_says_what_is_still_to_run(load: Callable[..., Recipe], tmp_path: Path):
    with pytest.raises(RunInterruptedError):
        run_recipe(load(SMALL), output=tmp_path, **stop_after(4))  # in the second stage
    saved = json.loads((tmp_path / "results.json").read_text())
    assert (list(saved["stages"]), saved["pending"]) == (["pretrain"], ["probe"])


# ------------------------------------------------------------------------------------------------------------------ once more


def test_a_second_start_skips_everything(whole: Whole, load: Callable[..., Recipe]):
    times = {path: path.stat().st_mtime_ns for stage in METRICS_OF for path in (whole.folder / stage).iterdir()}
    watcher = Recorder()
    again = run_recipe(load(RECIPE, "log_every=50", "checkpoint_minutes=0"), output=whole.folder, observers=[watcher], report=False)
    assert [type(event) for event in watcher.events] == [Notice, DataFound] + [StageSkipped] * len(METRICS_OF)
    assert watcher.stages(StageSkipped) == list(METRICS_OF)
    assert again.results.stages == whole.result.results.stages
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.fixture(scope="module")
def finished(load: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(load(SMALL), output=tmp_path_factory.mktemp("finished") / "small", report=False).folder


@pytest.fixture
def small(finished: Path, tmp_path: Path) -> Path:
    """A finished run of the small recipe, to spoil."""
    return shutil.copytree(finished, tmp_path / "small")


def test_a_later_stage_can_change_alone(small: Path, load: Callable[..., Recipe]):
    with pytest.raises(
        ArtifactError,
        match=r"probe: holds stage 'probe' of a different recipe \(stages\.probe\.evaluator\.layers: \['conv2'\] -> \['conv1'\]\)",
    ):
        run_recipe(load(SMALL, "stages.probe.evaluator.layers=['conv1']"), output=small)
    watcher = Recorder()
    run_recipe(
        load(SMALL + SMALL[SMALL.index("[stages.probe]") :].replace("probe]", "new]")), output=small, observers=[watcher], report=False
    )
    assert (watcher.stages(StageSkipped), watcher.stages(StageStart)) == (["pretrain", "probe"], ["new"])


def test_a_changed_stage_voids_those_that_build_on_it(small: Path, load: Callable[..., Recipe]):
    changed = load(SMALL, "stages.pretrain.epochs=2")
    shutil.rmtree(small / "pretrain")
    with pytest.raises(
        ArtifactError, match=r"probe: holds stage 'probe' of a different recipe \(stages\.probe\.weights: '[0-9a-f]{64}' -> "
    ):
        run_recipe(changed, output=small)
    assert not (small / "pretrain").exists(), "what is refused is refused before anything is computed"


def test_fresh_starts_over_and_leaves_other_files_alone(small: Path, load: Callable[..., Recipe]):
    before = weights(small)
    (small / "notes.txt").write_text("mine")
    (small / "other").mkdir()
    (small / "other" / "figure.png").write_text("mine")
    watcher = Recorder()
    run_recipe(load(SMALL, "seed=1"), output=small, fresh=True, observers=[watcher], report=False)
    assert watcher.stages(StageStart) == ["pretrain", "probe"]
    assert weights(small).keys() == before.keys()
    assert all(weights(small)[name] != before[name] for name in before)
    assert (small / "notes.txt").exists()
    assert (small / "other" / "figure.png").exists()


def test_the_same_seed_gives_the_same_bits_and_another_does_not(small: Path, load: Callable[..., Recipe], tmp_path: Path):
    again = run_recipe(load(SMALL), output=tmp_path / "again", report=False).folder
    assert weights(again) == weights(small)
    other = run_recipe(load(SMALL, "seed=1"), output=tmp_path / "other", report=False).folder
    assert weights(other)[f"pretrain/{BACKBONE}"] != weights(small)[f"pretrain/{BACKBONE}"]


def test_every_untrained_stage_starts_from_the_same_network(load: Callable[..., Recipe], tmp_path: Path):
    probe = 'weights = "random"\nevaluator = { name = "knn", layers = ["conv2"] }\n'
    text = f"{HEAD}[stages.one]\n{probe}[stages.two]\n{probe}"
    run_recipe(load(text), output=tmp_path, report=False)
    one, two = (artifact(tmp_path / stage)["frozen_backbone"]["sha256_before"] for stage in ("one", "two"))
    assert one == two


def test_the_folder_is_named_for_the_recipe(load: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_recipe(load(SMALL), report=False).folder == Path("runs/small")
    assert (tmp_path / "runs" / "small" / "results.json").exists()


def test_a_recipe_that_does_not_fit_computes_and_writes_nothing(load: Callable[..., Recipe], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"^stages\.probe\.evaluator\.layers: layer does not exist in this backbone; found 'conv9'"):
        run_recipe(load(SMALL, "stages.probe.evaluator.layers=['conv9']"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_one_is_named(load: Callable[..., Recipe], tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match=r"/file: is a file; choose another folder with --output$"):
        run_recipe(load(SMALL), output=tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"/file/run: cannot be written to \(.*\); choose another folder with --output$"):
        run_recipe(load(SMALL), output=tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


# -------------------------------------------------------------------------------------------------------------- stopped, killed


@pytest.mark.slow
def test_a_run_stopped_in_every_stage_ends_with_the_same_bits(whole: Whole, load: Callable[..., Recipe], tmp_path: Path):
    """Stopped after every fourth step, in mid-epoch, at the end of one, in the second of several fits, and started again."""
    recipe, stopped_in = load(RECIPE), []
    while True:
        watcher = Recorder()
        try:
            result = run_recipe(recipe, output=tmp_path, **stop_after(4, [watcher]))
            break
        except RunInterruptedError:
            assert isinstance(watcher.events[-1], CheckpointSaved)
            stopped_in.append(watcher.events[-1].stage)
    assert stopped_in == ["pretrain", "linear", "mlp", "random_conv", "finetune", "supervised", "few", "few", "few"]
    assert result.results.stages == whole.result.results.stages
    assert weights(tmp_path) == weights(whole.folder)
    for stage in METRICS_OF:
        expected, found = (steps_logged(folder / stage / METRICS) for folder in (whole.folder, tmp_path))
        assert found == expected, stage
        assert artifact(tmp_path / stage)["fingerprint"] == artifact(whole.folder / stage)["fingerprint"]


def test_a_stop_before_the_first_step_computes_nothing(load: Callable[..., Recipe], tmp_path: Path):
    watcher = Recorder()
    with pytest.raises(RunInterruptedError, match=r"^stopped before stage 'pretrain'$"):
        run_recipe(load(SMALL), output=tmp_path, observers=[watcher], should_stop=lambda: True)
    assert [type(event) for event in watcher.events] == [DataFound]


class Interrupt(Observer):
    """Presses Ctrl-C at the first step, and again if told so."""

    def __init__(self, times: int) -> None:
        self._times = times

    def observe(self, event: Event) -> None:
        if isinstance(event, StepEnd) and event.step == 1:
            for _ in range(self._times):
                os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def signals_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint(load: Callable[..., Recipe], tmp_path: Path):
    with signals_put_back(), pytest.raises(RunInterruptedError, match=r"^Ctrl-C: stopped in stage 'pretrain' after 1 steps$"):
        run_recipe(load(SMALL), output=tmp_path, observers=[Interrupt(1)])
    assert list((tmp_path / "pretrain").glob("checkpoint-*"))
    assert artifact(tmp_path / "pretrain")["status"] == "running"


def test_a_second_ctrl_c_stops_at_once(load: Callable[..., Recipe], tmp_path: Path):
    with signals_put_back(), pytest.raises(KeyboardInterrupt):
        run_recipe(load(SMALL), output=tmp_path, observers=[Interrupt(2)])
    assert not list((tmp_path / "pretrain").glob("checkpoint-*"))


def test_a_run_in_a_thread_leaves_signals_alone(load: Callable[..., Recipe], tmp_path: Path):
    results: list[RunResult] = []
    with signals_put_back():
        thread = threading.Thread(target=lambda: results.append(run_recipe(load(SMALL), output=tmp_path, report=False)))
        thread.start()
        thread.join()
    assert set(results[0].results.stages) == {"pretrain", "probe"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_belongs_to_one_recipe(fresh: bool, whole: Whole, load: Callable[..., Recipe]):
    """Stages of other names would not collide: without this, two recipes' stages would lie side by side and results.json be one's."""
    before = {path: path.read_bytes() for path in whole.folder.glob("*.*")}
    other = load('name = "other"\n[data]\nname = "digits"\n[backbone]\nname = "nin"\n[stages.more]\ntask = { name = "rotnet" }\n')
    with pytest.raises(ArtifactError, match=r"holds a run of a different recipe \(name: 'tiny' -> 'other'\); choose another folder"):
        run_recipe(other, output=whole.folder, fresh=fresh)
    assert {path: path.read_bytes() for path in before} == before
