import tomllib
from pathlib import Path

import pytest

from sslkit.report.run_folder import RunFolder, read_run
from sslkit.report.run_tables import environment_table, facts_table, margins_table, pivot_tables, results_table, stages_table
from sslkit.report.table import Table
from sslkit.storage.identity import plain
from sslkit.views.view import View, functions_of
from tests.report.run_folders import ENVIRONMENT, HASH, MakeRun, train_line

STAGES = {"pretrain": {"pretext_loss": 0.25, "pretext_top1": 93.456}, "probe": {"conv2.top1": 90.504}, "finetune": {"conv4.top1": 92.0}}
IDENTITY = {
    "task": {"class": "sslkit_rotnet.task:RotNet", "angles": [0.0, 90.0], "transforms": None},
    "backbone": {"spec": "nin", "options": {"num_blocks": 4, "pool_after_conv3": False}, "weights": "random"},
}


def facts(table: Table) -> dict[str, str]:
    return {str(name.value): str(value.value) for name, value in table.rows}


def lines(table: Table) -> list[str]:
    return table.markdown().splitlines()[2:]


def test_what_was_run(run_of: MakeRun, tmp_path: Path):
    run = run_of(
        STAGES,
        logs={"pretrain": [train_line(i, images_per_second=speed) for i, speed in enumerate((10.0, 1234.5, 2000.0))]},
        recipe={"data": {"name": "image_folder", "root": "images", "image_size": 32}},
        artifacts={
            "pretrain": {"identity": IDENTITY, "scaled_rates": ["optimizer.lr: 0.3 is 0.6"]},
            "finetune": {"seconds": 3661.0, "device": "a GPU"},
        },
    )
    assert facts(facts_table(run)) == {
        "data": 'image_folder, root = "images", image_size = 32',
        "images": "50,000 to train on, 10,000 held out",
        "pretext task": "RotNet, angles = [0, 90]",
        "backbone": "nin, num_blocks = 4, pool_after_conv3 = false",
        "learning rate": "pretrain.optimizer.lr: 0.3 is 0.6",
        "stages": "3 finished",
        "started": "2025-01-01T00:00:00+00:00",
        "device time": "2 min 02 s on a CPU, 2 threads; 1 h 01 min on a GPU",
        "throughput": "pretrain 1,234 images/s",
        "commit": "0123456789ab-dirty",
        "folder": str(tmp_path),
    }


VIEWS: dict[str, tuple[View, str]] = {
    "preset": (View("simclr"), '"simclr"'),
    "sized": (View("simclr", size=32), '{ name = "simclr", size = 32 }'),
    "rectangle": (View("simclr", size=(32, 48)), '{ name = "simclr", size = [32, 48] }'),
    "functions": (
        View(random_resized_crop={"size": 32, "scale": (0.2, 1.0)}, horizontal_flip={}),
        "{ random_resized_crop = { size = 32, scale = [0.2, 1] }, horizontal_flip = {} }",
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_shown_as_a_recipe_says_it(run_of: MakeRun, name: str):
    view, text = VIEWS[name]
    table = tomllib.loads(f"view = {text}")
    assert View(**functions_of(table["view"])) == view, "what is shown can be pasted"
    task = {"class": "mine:Mine", "view": plain(view), "views": [plain(view)], "optimizer": {"class": "mine:Fast", "lr": 0.5, "eps": None}}
    shown = facts(facts_table(run_of(STAGES, artifacts={"pretrain": {"identity": {"task": task}}})))["pretext task"]
    assert shown == f'Mine, view = {text}, views = [{text}], optimizer = {{ name = "Fast", lr = 0.5 }}'


@pytest.mark.parametrize("options", [{}, {"odd": 1, "mine": {}, "resize": {"size": "x"}}, {"resize": {"size": [1, [2]]}}, "none"])
def test_a_view_that_is_none_is_shown_all_the_same(run_of: MakeRun, options: object):
    task = {"class": "mine:Mine", "view": {"class": "sslkit.views.view:View", "functions": 3, "options": options}}
    assert "view = {" in facts(facts_table(run_of(STAGES, artifacts={"pretrain": {"identity": {"task": task}}})))["pretext task"]


def test_images_are_those_of_stages_by_name_where_they_differ(run_of: MakeRun):
    artifacts = {"pretrain": {"num_images": 90, "num_test_images": 0}, "probe": {"num_images": 60, "num_test_images": 20}}
    artifacts["finetune"] = artifacts["probe"]
    shown = facts(facts_table(run_of(STAGES, artifacts=artifacts)))["images"]
    assert shown == "90 (pretrain), 60 (probe, finetune) to train on, 20 held out"


def test_what_is_not_known_is_not_reported(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text('name = "mine"\ndata = "digits"')
    run = read_run(tmp_path)
    assert facts(facts_table(run)) == {"data": "digits", "stages": "0 finished, still to run: unknown", "folder": str(tmp_path)}
    assert [table(run) for table in (environment_table, stages_table, results_table, margins_table)] == [None] * 4


def test_the_papers_figures_stand_beside_ours(run_of: MakeRun):
    rows = ["| pretrain | pretext_loss | 0.25 |", "| pretrain | pretext_top1 | 93.46 |", "| probe | conv2.top1 | 90.50 |"]
    assert lines(results_table(run_of(STAGES))) == [*rows, "| finetune | conv4.top1 | 92.00 |"]
    table = results_table(run_of(STAGES, paper={"probe.conv2.top1": 91.16, "probe.conv9.top1": 50.0}))
    assert lines(table)[1:3] == ["| pretrain | pretext_top1 | 93.46 |  |  |", "| probe | conv2.top1 | 90.50 | 91.16 | -0.66 |"]
    assert table.note.endswith("Results of the paper without a metric of this run: probe.conv9.top1.")


def test_margins(run_of: MakeRun):
    run = run_of(STAGES, margins={"gain": ("finetune.conv4.top1", "probe.conv2.top1"), "not yet": ("knn.a", "knn.b")})
    assert lines(margins_table(run)) == ["| gain | +1.50 | finetune.conv4.top1 minus probe.conv2.top1 |"]
    assert margins_table(run_of(STAGES)) is None


def test_stages(run_of: MakeRun):
    logs = {"probe": [train_line(1, images_per_second=800.0)]}
    run = run_of(STAGES, logs=logs, artifacts={"finetune": {"frozen_backbone": None}}, begun=["knn"], pending=["knn", "linear"])
    assert lines(stages_table(run)) == [
        "| pretrain | pretrain | 50,000 | 61.2 |  | a CPU, 2 threads | 2025-01-01 00:01 | trained |",
        f"| probe | evaluate | 50,000 | 61.2 | 800 | a CPU, 2 threads | 2025-01-01 00:01 | unchanged, {HASH[:12]} |",
        "| finetune | evaluate | 50,000 | 61.2 |  | a CPU, 2 threads | 2025-01-01 00:01 | trained |",
        "| knn | evaluate |  |  |  |  |  |  |",
    ]
    assert facts(facts_table(run))["stages"] == "3 finished, still to run: knn, linear"


def test_the_environment(run_of: MakeRun):
    assert facts(environment_table(run_of(STAGES))) == {
        "platform": "Linux",
        "device": "a CPU, 2 threads",
        "threads": "2",
        "Python": "3.11.0",
        "command": "sslkit run mine.toml",
        "packages": "sslkit 0.1.0, torch 2.6.0",
        "plugins": "sslkit-rotnet 1.5",
        "commit": "0123456789ab-dirty",
    }


def test_stages_that_were_computed_with_something_else_are_named_beside_it(run_of: MakeRun):
    versions = {"sslkit": "0.1.0", "torch": "2.7.0"}
    newer = {**ENVIRONMENT, "started": "2025-02-01T00:00:00+00:00", "versions": versions, "commit": "fedcba987654"}
    artifacts = {"knn": {"environments": [newer]}, "finetune": {"environments": [ENVIRONMENT, newer]}}
    run = run_of({key: {"top1": 1.0} for key in ("probe", "knn", "finetune")}, artifacts=artifacts)
    found = facts(environment_table(run))
    assert found["packages"] == "sslkit 0.1.0, torch 2.6.0 (probe, finetune); sslkit 0.1.0, torch 2.7.0 (knn, finetune)"
    assert found["device"] == "a CPU, 2 threads"
    assert facts(facts_table(run))["commit"] == "0123456789ab-dirty, fedcba987654"
    assert facts(facts_table(run))["started"] == "2025-01-01T00:00:00+00:00"


def test_what_an_artifact_does_not_know_is_left_out(run_of: MakeRun):
    run = run_of(STAGES, artifacts={key: {"environments": [{**ENVIRONMENT, "commit": ""}]} for key in STAGES})
    assert "commit" not in facts(environment_table(run))
    assert "commit" not in facts(facts_table(run))
    assert environment_table(run_of(STAGES, artifacts={key: {"environments": []} for key in STAGES})) is None


SWEEP = {
    "blocks3/probe": {"conv1.top1": 80.0, "conv2.top1": 85.0},
    "blocks4/probe": {"conv1.top1": 81.0, "conv2.top1": 86.0, "conv3.top1": 60.0},
    "random_probe": {"conv1.top1": 50.0},
}


def pivot(run: RunFolder) -> list[str]:
    (table,) = pivot_tables(run)
    return [table.key, *table.markdown().splitlines()]


def test_variants_by_metrics(run_of: MakeRun):
    assert pivot(run_of(SWEEP)) == [
        "probe_by_variant",
        "| variant | conv1.top1 | conv2.top1 | conv3.top1 |",
        "| --- | ---: | ---: | ---: |",
        "| blocks3 | 80.00 | 85.00 |  |",
        "| blocks4 | 81.00 | 86.00 | 60.00 |",
    ]


def test_the_papers_figures_stand_below_ours(run_of: MakeRun):
    assert pivot(run_of(SWEEP, paper={"blocks3/probe.conv2.top1": 88.26})) == [
        "probe_by_variant",
        "| variant | metrics | conv1.top1 | conv2.top1 | conv3.top1 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| blocks3 | ours | 80.00 | 85.00 |  |",
        "| blocks3 | paper |  | 88.26 |  |",
        "| blocks4 | ours | 81.00 | 86.00 | 60.00 |",
    ]


def test_metrics_by_epochs(run_of: MakeRun):
    stages = {f"object/epoch={epoch}": {"conv1.top1": float(epoch), "conv2.top1": 2.0 * epoch} for epoch in (10, 0, 9)}
    assert pivot(run_of(stages)) == [
        "object_by_epoch",
        "| metric | 0 | 9 | 10 |",
        "| --- | ---: | ---: | ---: |",
        "| conv1.top1 | 0.00 | 9.00 | 10.00 |",
        "| conv2.top1 | 0.00 | 18.00 | 20.00 |",
    ]


def test_variants_and_metrics_by_epochs(run_of: MakeRun):
    epochs = {"half/object/epoch=0": 1.0, "half/object/epoch=1": 2.0, "fifth/object/epoch=1": 3.0}
    assert pivot(run_of({key: {"conv1.top1": value} for key, value in epochs.items()})) == [
        "object_by_epoch",
        "| variant | metric | 0 | 1 |",
        "| --- | --- | ---: | ---: |",
        "| half | conv1.top1 | 1.00 | 2.00 |",
        "| fifth | conv1.top1 |  | 3.00 |",
    ]


def test_a_plain_run_has_none(run_of: MakeRun):
    run = run_of({"pretrain": {"pretext_top1": 90.0}, "probe": {"conv1.top1": 1.0, "conv2.top1": 2.0}})
    assert list(pivot_tables(run)) == []
