"""Networks kept on the way: the same bits as a shorter look at the same training, also after an interruption, and stages on each."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from sslkit import (
    Arrays,
    Augment,
    FeatureQuality,
    HeldoutEnd,
    OptionError,
    RecipeError,
    RunInterruptedError,
    TrainingOptions,
    load_backbone,
    load_recipe,
    pretrain,
    run_recipe,
)
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.runtime import Runtime
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.run.artifacts import ARTIFACT, SNAPSHOTS
from sslkit.storage.identity import state_hash
from sslkit.storage.metrics_log import read_metrics
from tests.contract.miniatures.rotation import Rotation
from tests.evaluators.labeled import arrays, network
from tests.observers import Recorder, stop_after
from tests.recipes import HEAD

DATA = arrays()
RUNTIME = Runtime(device="cpu", precision="float32", log_every=1)
TRAINING = TrainingOptions(epochs=3, batch_size=8, augment=Augment(crop_padding=1))

RECIPE = (
    HEAD
    + """
[stages.pretrain]
task = { name = "rotnet" }
epochs = 2
batch_size = 700
snapshot_epochs = [2, 0, 1]

[stages.object]
weights = "pretrain@each"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 700 }

[stages.middle]
weights = "pretrain@1"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 700 }
"""
)


def hashes(folder: Path) -> dict[int, str]:
    return {epoch: state_hash(load_backbone(folder, snapshot=epoch, backbone=network(seed=9))) for epoch in (0, 1, 2, 3)}


def pretrained(folder: Path, **options):
    return pretrain(Rotation(), network(), DATA, training=TRAINING, runtime=RUNTIME, output=folder, snapshot_epochs=(0, 1, 2, 3), **options)


# ---------------------------------------------------------------------------------------------------------------- pretraining


def test_snapshots_are_the_network_after_each_epoch(tmp_path: Path):
    """Training for fewer epochs at a constant rate would need another schedule, so the ends are known and the middle must differ."""
    result = pretrained(tmp_path)
    found = hashes(tmp_path)
    assert found[0] == state_hash(network())
    assert result.backbone is not None
    assert found[3] == state_hash(result.backbone)
    assert len(set(found.values())) == 4
    assert json.loads((tmp_path / ARTIFACT).read_text())["snapshot_epochs"] == [0, 1, 2, 3]


def test_keeping_snapshots_changes_nothing_else(tmp_path: Path):
    plain = pretrain(Rotation(), network(), DATA, training=TRAINING, runtime=RUNTIME)
    watched = pretrained(tmp_path)
    assert plain.backbone is not None
    assert watched.backbone is not None
    assert state_hash(watched.backbone) == state_hash(plain.backbone)
    assert watched.metrics == plain.metrics


@pytest.mark.parametrize("steps", range(1, 12, 2))
def test_an_interrupted_pretraining_leaves_the_same_snapshots(steps: int, tmp_path: Path):
    pretrained(tmp_path / "whole")
    with pytest.raises(RunInterruptedError):
        pretrained(tmp_path / "parts", **stop_after(steps))
    pretrained(tmp_path / "parts")
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")
    lines = [
        [{**line, "images_per_second": 0.0} for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("parts", "whole")
    ]
    assert lines[0] == lines[1]


def test_held_out_images_are_measured_with_every_snapshot(tmp_path: Path):
    recorder = Recorder()
    pretrained(tmp_path, evaluate_every=100, observers=[recorder])
    assert [event.epoch for event in recorder.of(HeldoutEnd)] == [0, 1, 2, 3]


@pytest.mark.parametrize("epochs", [(4,), (-1,), (1, 1)])
def test_epochs_outside_of_the_training_are_refused(epochs: tuple[int, ...], tmp_path: Path):
    with pytest.raises(OptionError, match=r"snapshot_epochs: must be distinct epochs of the training; .* allowed: 0 to 3"):
        pretrain(Rotation(), network(), DATA, training=TRAINING, output=tmp_path, snapshot_epochs=epochs)


def test_without_a_folder_there_is_nowhere_to_keep_them():
    with pytest.raises(OptionError, match="snapshot_epochs: there is no folder to keep them in"):
        pretrain(Rotation(), network(), DATA, training=TRAINING, snapshot_epochs=(1,))


# -------------------------------------------------------------------------------------------------------------------- recipes


def parse(*changes: tuple[str, str]) -> Recipe:
    text = RECIPE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return parse_recipe(tomllib.loads(text), load_catalog())


def refused(*changes: tuple[str, str]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(*changes)
    return str(caught.value)


def test_each_snapshot_becomes_a_stage():
    recipe = parse()
    assert [(stage.key, stage.weights, stage.snapshot) for stage in recipe.stages] == [
        ("pretrain", "random", None),
        ("object/epoch=0", "pretrain", 0),
        ("object/epoch=1", "pretrain", 1),
        ("object/epoch=2", "pretrain", 2),
        ("middle", "pretrain", 1),
    ]
    assert parse_recipe(recipe.table, load_catalog()) == recipe


def test_snapshots_and_sweeps_go_together():
    recipe = parse_recipe({**tomllib.loads(RECIPE), "sweep": {"seed": [1, 2]}}, load_catalog())
    assert [stage.key for stage in recipe.stages if "object" in stage.key] == [
        f"seed={seed}/object/epoch={epoch}" for seed in (1, 2) for epoch in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [('"pretrain@1"', '"pretrain@5"')],
            "stages.middle.weights: that stage keeps no such snapshot; found 'pretrain@5';"
            " allowed: pretrain@0, pretrain@1, pretrain@2, pretrain@each",
        ),
        ([('"pretrain@1"', '"pretrain@"')], "stages.middle.weights: that stage keeps no such snapshot; found 'pretrain@'"),
        (
            [("snapshot_epochs = [2, 0, 1]\n", "")],
            "stages.object.weights: that stage keeps no such snapshot; found 'pretrain@each'; allowed: pretrain;"
            " give [stages.pretrain] snapshot_epochs",
        ),
        ([('"pretrain@1"', '"object"')], "stages.middle.weights: that stage leaves no backbone; found 'object'"),
        ([('"pretrain@1"', '"pretain@1"')], "stages.middle.weights: no such stage; found 'pretain@1'"),
        ([("[2, 0, 1]", "[3]")], "stages.pretrain.snapshot_epochs: must be distinct epochs of the training; found [3]; allowed: 0 to 2"),
        ([("[2, 0, 1]", "[1.5]")], "stages.pretrain.snapshot_epochs[0]: must be an integer; found 1.5"),
        ([("[2, 0, 1]", "2")], "stages.pretrain.snapshot_epochs: must be an array of integers; found 2"),
        ([("[2, 0, 1]", "[true]")], "stages.pretrain.snapshot_epochs[0]: must be an integer; found True"),
    ],
)
def test_wrong_snapshots_are_refused_in_one_line(changes: list[tuple[str, str]], message: str):
    assert refused(*changes).startswith(message)


def test_a_run_probes_each_snapshot(tmp_path: Path):
    path = tmp_path / "watched.toml"
    path.write_text(RECIPE)
    run = run_recipe(load_recipe(path), output=tmp_path / "run", report=False)
    artifacts = {key: json.loads((run.folder / key / ARTIFACT).read_text()) for key in run.results.stages}
    kept = {epoch: state_hash(load_backbone(run.folder / "pretrain", snapshot=epoch)) for epoch in (0, 1, 2)}
    assert len(set(kept.values())) == 3
    assert {epoch: artifacts[f"object/epoch={epoch}"]["frozen_backbone"]["sha256_before"] for epoch in kept} == kept
    assert len({artifacts[f"object/epoch={epoch}"]["fingerprint"] for epoch in kept}) == 3
    assert artifacts["middle"]["frozen_backbone"]["sha256_before"] == kept[1]
    assert not list((run.folder / "object").glob(SNAPSHOTS))


# ------------------------------------------------------------------------------------------------------ evaluation without labels


def test_an_evaluator_that_needs_no_labels_runs_on_unlabelled_images(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for index in range(12):
        pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / f"{index}.png")
    table = tomllib.loads(RECIPE)
    table["data"] = {"name": "image_folder", "root": str(tmp_path / "images"), "image_size": 16}
    table["stages"] = {
        "pretrain": {**table["stages"]["pretrain"], "batch_size": 8},
        "spectrum": {"weights": "pretrain@each", "evaluator": {"name": "feature_quality", "layers": ["conv2"]}},
    }
    run = run_recipe(parse_recipe(table, load_catalog()), output=tmp_path / "run", report=False)
    for epoch in (0, 1, 2):
        assert set(run.results.stages[f"spectrum/epoch={epoch}"]) == {"conv2.rankme", "conv2.alpha_req"}
    assert FeatureQuality.needs_labels is False


# -------------------------------------------------------------------------------------------------------------------- quality


def measured(folder: Path) -> dict[float, set[str]]:
    """Names of what was measured of the quality, by epoch."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if any(name.startswith("quality.") for name in line)]
    return {line["epoch"]: {name for name in line if name.startswith("quality.")} for line in lines}


EVERY = {"quality.rankme", "quality.alpha_req", "quality.knn.top1"}


def test_quality_is_measured_from_the_untrained_network_to_the_last(tmp_path: Path):
    pretrain(Rotation(), network(), DATA, training=TRAINING, runtime=RUNTIME, output=tmp_path)
    assert measured(tmp_path) == dict.fromkeys((0, 1, 2, 3), EVERY)
    assert not (tmp_path / SNAPSHOTS).exists(), "nothing is kept for it"


@pytest.mark.parametrize(
    ("options", "epochs"), [({"quality_epochs": [2]}, [2]), ({"quality_epochs": []}, []), ({"snapshot_epochs": [1]}, [1])]
)
def test_quality_is_measured_when_asked_for_or_with_snapshots(options: dict[str, list[int]], epochs: list[int], tmp_path: Path):
    pretrain(Rotation(), network(), DATA, training=TRAINING, runtime=RUNTIME, output=tmp_path, **options)
    assert list(measured(tmp_path)) == epochs


def test_without_labels_quality_needs_none(tmp_path: Path):
    unlabeled = Arrays(train_images=torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8))
    pretrain(Rotation(), network(), unlabeled, training=TRAINING, runtime=RUNTIME, output=tmp_path)
    assert measured(tmp_path)[3] == {"quality.rankme", "quality.alpha_req"}


def test_measuring_quality_changes_no_result():
    with_it, without = (
        pretrain(Rotation(), network(), DATA, training=TRAINING, runtime=RUNTIME, quality_epochs=epochs) for epochs in (None, ())
    )
    assert with_it.backbone is not None
    assert without.backbone is not None
    assert state_hash(with_it.backbone) == state_hash(without.backbone)
    assert (with_it.metrics, with_it.fingerprint) == (without.metrics, without.fingerprint)


def test_wrong_epochs_of_quality_are_refused():
    with pytest.raises(OptionError, match=r"quality_epochs: must be distinct epochs of the training; .* allowed: 0 to 3"):
        pretrain(Rotation(), network(), DATA, training=TRAINING, quality_epochs=(4,))
    text = RECIPE.replace("snapshot_epochs = [2, 0, 1]", "snapshot_epochs = [2, 0, 1]\nquality_epochs = [3]")
    with pytest.raises(RecipeError, match=r"stages\.pretrain\.quality_epochs: must be distinct epochs of the training"):
        parse_recipe(tomllib.loads(text), load_catalog())


@pytest.mark.parametrize("epochs", [[], [2, 0]])
def test_a_recipe_resolves_its_epochs_of_quality(epochs: list[int]):
    text = RECIPE.replace("snapshot_epochs = [2, 0, 1]", f"snapshot_epochs = [2, 0, 1]\nquality_epochs = {epochs}")
    recipe = parse_recipe(tomllib.loads(text), load_catalog())
    assert recipe.stages[0].quality_epochs == tuple(sorted(epochs))
    assert parse_recipe(recipe.table, load_catalog()).stages == recipe.stages
