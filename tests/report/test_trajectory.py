from pathlib import Path

import numpy as np

from sslkit.report.charts.epochs import draw_trajectory
from sslkit.report.run_folder import RunFolder, read_run
from tests.report.drawn import axes_of, lines_of
from tests.report.run_folders import heldout_line, make_run, train_line

STAGES = {
    "pretrain": {"pretext_top1": 80.0},
    "object/epoch=0": {"conv2.top1": 40.0, "conv2.k5.top1": 20.0, "conv2.k5.top1_std": 1.0},
    "object/epoch=2": {"conv2.top1": 60.0, "conv2.k5.top1": 30.0},
    "spectrum/epoch=0": {"conv2.rankme": 2.0, "conv2.alpha_req": 3.0},
    "spectrum/epoch=2": {"conv2.rankme": 5.0, "conv2.alpha_req": 2.0},
}
LOG = [train_line(1, loss=1.0, top1=99.0), heldout_line(0, loss=1.4, top1=25.0), heldout_line(2, loss=0.5, top1=80.0)]


def trajectory_run(folder: Path, **options: object) -> RunFolder:
    snapshots = {"pretrain": {"snapshot_epochs": [0, 2]}}
    return read_run(make_run(folder, STAGES, **{"logs": {"pretrain": LOG}, "artifacts": snapshots, **options}))  # pyright: ignore[reportArgumentType]


def test_pretext_and_object_accuracy_share_a_chart(tmp_path: Path):
    accuracy, *_ = draw_trajectory(trajectory_run(tmp_path))
    assert {label: line.points for label, line in lines_of(accuracy).items()} == {
        "pretrain, pretext top1": [(0, 25.0), (2, 80.0)],
        "object, conv2": [(0, 40.0), (2, 60.0)],
        "object, conv2, 5 labels per class": [(0, 20.0), (2, 30.0)],
    }
    assert "pretext" in accuracy.caption


def test_feature_quality_has_charts_of_its_own(tmp_path: Path):
    _, rankme, alpha = draw_trajectory(trajectory_run(tmp_path))
    assert (rankme.key, alpha.key) == ("trajectory-rankme", "trajectory-alpha_req")
    assert lines_of(rankme)["spectrum, conv2"].points == [(0, 2.0), (2, 5.0)]
    assert lines_of(alpha)["spectrum, conv2"].points == [(0, 3.0), (2, 2.0)]
    assert len(axes_of(rankme).lines) == 1
    assert np.array_equal(axes_of(alpha).lines[-1].get_ydata(), [1.0, 1.0])  # where it is good


def test_epochs_stand_in_order_whatever_the_order_of_stages(tmp_path: Path):
    stages = {f"object/epoch={epoch}": {"conv2.top1": float(epoch)} for epoch in (10, 9, 100)}
    (accuracy,) = draw_trajectory(read_run(make_run(tmp_path, stages)))
    assert lines_of(accuracy)["object, conv2"].points == [(9, 9), (10, 10), (100, 100)]
    assert "pretext" not in accuracy.caption


def test_variants_are_told_apart(tmp_path: Path):
    stages = {f"{variant}/object/epoch=1": {"conv2.top1": 1.0} for variant in ("half", "fifth")}
    (accuracy,) = draw_trajectory(read_run(make_run(tmp_path, stages)))
    assert list(lines_of(accuracy)) == ["half, conv2", "fifth, conv2"]


def test_pretraining_without_snapshots_is_not_shown(tmp_path: Path):
    accuracy, *_ = draw_trajectory(trajectory_run(tmp_path, artifacts={}))
    assert list(lines_of(accuracy)) == ["object, conv2", "object, conv2, 5 labels per class"]


def test_without_snapshots_there_is_nothing(tmp_path: Path):
    assert list(draw_trajectory(read_run(make_run(tmp_path, {"probe": {"conv2.top1": 1.0}})))) == []
