from collections.abc import Callable

import numpy as np
import pytest

from sslkit.report.picture import Picture
from sslkit.report.run_charts import MAX_POINTS, draw_curves, draw_few_labels, draw_layers, draw_trajectory
from sslkit.report.run_tables import few_labels_table
from tests.report.drawn import axes_of, legend_of, lines_of, points_of, ticks_of
from tests.report.run_folders import Log, MakeRun, heldout_line, train_line

# ------------------------------------------------------------------------------------------------------ accuracy by layer

LAYERS = {
    "blocks3/probe": {"conv1.top1": 80.0, "conv2.top1": 85.0},
    "blocks4/probe": {"conv1.top1": 81.0, "conv2.top1": 86.0, "conv10.top1": 60.0},
    "single": {"conv2.top1": 90.0},
    "few": {"conv1.k1.top1": 20.0, "conv2.k1.top1": 30.0},
    "object/epoch=1": {"conv1.top1": 1.0, "conv2.top1": 2.0},
}


def test_a_line_for_each_stage_with_several_layers(run_of: MakeRun):
    picture = draw_layers(run_of(LAYERS))
    assert ticks_of(picture) == ["conv1", "conv2", "conv10"]
    assert points_of(picture) == {"blocks3": [(0, 80.0), (1, 85.0)], "blocks4": [(0, 81.0), (1, 86.0), (2, 60.0)]}
    assert "Rings" not in picture.caption


def test_the_papers_accuracies_by_layer_are_rings_of_the_same_colour(run_of: MakeRun):
    picture = draw_layers(run_of(LAYERS, paper={"blocks3/probe.conv1.top1": 85.45, "blocks3/probe.conv3.top1": 62.09}))
    lines = lines_of(picture)
    assert ticks_of(picture) == ["conv1", "conv2", "conv10", "conv3"]
    ours, paper = lines["blocks3"], lines["blocks3, paper"]
    assert paper.points == [(0, 85.45), (3, 62.09)]
    assert (ours.look[0], ours.hollow, paper.hollow) == (paper.look[0], False, True)
    assert legend_of(picture) == ["blocks3", "blocks3, paper", "blocks4"]
    assert picture.caption.endswith("Rings are the paper's results.")


# ------------------------------------------------------------------------------------------------------------- few labels

FEW = {
    "pretrain": {"pretext_top1": 90.0},
    "rotnet": {"conv2.k1.top1": 50.0, "conv2.k1.top1_std": 2.5, "conv2.k5000.top1": 90.0},
    "supervised": {"conv3.k1.top1": 30.0, "conv3.k20.top1": 60.0},
}


def test_a_line_a_stage_over_a_logarithmic_axis(run_of: MakeRun):
    picture = draw_few_labels(run_of(FEW))
    assert axes_of(picture).get_xscale() == "log"
    assert ticks_of(picture) == ["1", "20", "5,000"]
    assert points_of(picture) == {"rotnet, conv2": [(1, 50.0), (5000, 90.0)], "supervised, conv3": [(1, 30.0), (20, 60.0)]}
    (container,) = axes_of(picture).containers
    bars = [tuple(map(tuple, segment)) for segment in container[2][0].get_segments()]
    assert bars == [((1, 47.5), (1, 52.5)), ((5000, 90.0), (5000, 90.0))]


def test_the_papers_few_labels_are_rings(run_of: MakeRun):
    picture = draw_few_labels(run_of(FEW, paper={"rotnet.conv2.k1.top1": 55.0}))
    assert legend_of(picture) == ["rotnet, conv2", "rotnet, conv2, paper", "supervised, conv3"]
    assert lines_of(picture)["rotnet, conv2, paper"].points == [(1, 55.0)]
    assert lines_of(picture)["rotnet, conv2, paper"].hollow
    assert "Rings" in picture.caption


def test_the_same_as_a_table(run_of: MakeRun):
    assert few_labels_table(run_of(FEW)).markdown().splitlines() == [
        "| stage | layer | 1 | 20 | 5,000 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| rotnet | conv2 | 50.00 ± 2.50 |  | 90.00 |",
        "| supervised | conv3 | 30.00 | 60.00 |  |",
    ]


# -------------------------------------------------------------------------------------------------------- training curves

LOG = [
    train_line(0.5, loss=2.0, top1=30.0, entropy=1.0, lr=0.1, images_per_second=900.0),
    heldout_line(1, loss=1.8, top1=35.0),
    train_line(1, loss=1.0, top1=60.0, entropy=0.5, lr=0.0, images_per_second=1000.0),
    heldout_line(2, loss=0.9, top1=65.0),
]

Curves = Callable[..., dict[str, Picture]]


@pytest.fixture
def curves(run_of: MakeRun) -> Curves:
    """Draws logs, given by stage; the charts by their y axes."""

    def draw(**logs: Log) -> dict[str, Picture]:
        logs = {key.replace("__", "/"): log for key, log in logs.items()}
        run = run_of({key: {"pretext_top1": 1.0} for key in logs}, logs=logs)
        return {axes_of(picture).get_ylabel(): picture for picture in draw_curves(run)}

    return draw


def test_a_chart_for_every_metric_in_a_useful_order(curves: Curves):
    found = curves(pretrain=LOG)
    assert list(found) == ["loss", "top-1 accuracy (%)", "entropy", "learning rate", "images per second"]
    assert axes_of(found["images per second"]).get_ylim()[0] == 0
    titles = ("Loss", "Pretext accuracy", "entropy", "Learning rate", "Throughput")
    assert [picture.title for picture in found.values()] == [f"{title} during pretraining" for title in titles]


def test_training_is_a_line_and_held_out_images_are_marks(curves: Curves):
    lines = lines_of(curves(pretrain=LOG)["top-1 accuracy (%)"])
    train, held_out = lines["pretrain"], lines["pretrain, held out"]
    assert (train.points, train.look[1:]) == ([(0.5, 30.0), (1, 60.0)], ("-", "none"))
    assert (held_out.points, held_out.look[1:]) == ([(1, 35.0), (2, 65.0)], ("None", "o"))


def test_what_was_not_held_out_has_no_marks(curves: Curves):
    found = curves(pretrain=LOG)
    assert list(lines_of(found["learning rate"])) == ["pretrain"]
    assert "held-out" not in found["learning rate"].caption
    assert "held-out" in found["loss"].caption


def test_a_sweeps_stages_share_a_chart(curves: Curves):
    picture = curves(blocks3__pretrain=LOG, blocks4__pretrain=LOG)["loss"]
    assert list(lines_of(picture)) == ["blocks3", "blocks4", "blocks3, held out", "blocks4, held out"]
    assert legend_of(picture) == ["blocks3", "blocks4"]


def test_long_logs_are_thinned_and_keep_their_ends(curves: Curves):
    points = points_of(curves(pretrain=[train_line(i / 100, loss=float(i)) for i in range(5_000)])["loss"])["pretrain"]
    assert len(points) == MAX_POINTS
    assert (points[0], points[-1]) == ((0, 0), (49.99, 4_999))


def test_large_sweeps_are_thinned_further(curves: Curves):
    log = [train_line(i / 100, loss=float(i)) for i in range(500)]
    points = points_of(curves(**{f"v{i}__pretrain": log for i in range(40)})["loss"])
    assert sum(map(len, points.values())) <= 6_000


# -------------------------------------------------------------------------------------------------------------- snapshots

SNAPSHOTS = {
    "pretrain": {"pretext_top1": 80.0},
    "object/epoch=0": {"conv2.top1": 40.0, "conv2.k5.top1": 20.0, "conv2.k5.top1_std": 1.0},
    "object/epoch=2": {"conv2.top1": 60.0, "conv2.k5.top1": 30.0},
    "spectrum/epoch=0": {"conv2.rankme": 2.0, "conv2.alpha_req": 3.0},
    "spectrum/epoch=2": {"conv2.rankme": 5.0, "conv2.alpha_req": 2.0},
}
HELD_OUT = [train_line(1, loss=1.0, top1=99.0), heldout_line(0, loss=1.4, top1=25.0), heldout_line(2, loss=0.5, top1=80.0)]
KEPT = {"logs": {"pretrain": HELD_OUT}, "artifacts": {"pretrain": {"snapshot_epochs": [0, 2]}}}


def test_pretext_and_object_accuracy_share_a_chart(run_of: MakeRun):
    accuracy, *_ = draw_trajectory(run_of(SNAPSHOTS, **KEPT))
    assert points_of(accuracy) == {
        "pretrain, pretext top1": [(0, 25.0), (2, 80.0)],
        "object, conv2": [(0, 40.0), (2, 60.0)],
        "object, conv2, 5 labels per class": [(0, 20.0), (2, 30.0)],
    }
    assert "frozen snapshots, and the pretext task's own, all on held-out images." in accuracy.caption


def test_feature_quality_has_charts_of_its_own(run_of: MakeRun):
    _, rankme, alpha = draw_trajectory(run_of(SNAPSHOTS, **KEPT))
    assert (axes_of(rankme).get_ylabel(), axes_of(alpha).get_ylabel()) == ("RankMe", "alpha-ReQ")
    assert points_of(rankme) == {"spectrum, conv2": [(0, 2.0), (2, 5.0)]}
    assert points_of(alpha) == {"spectrum, conv2": [(0, 3.0), (2, 2.0)]}
    assert len(axes_of(rankme).lines) == 1
    assert np.array_equal(axes_of(alpha).lines[-1].get_ydata(), [1.0, 1.0])  # where it is good


def test_variants_and_epochs_are_distinguished_whatever_the_order_of_stages(run_of: MakeRun):
    keys = [(variant, epoch) for epoch in (10, 9, 100) for variant in ("half", "fifth")]
    (accuracy,) = draw_trajectory(run_of({f"{variant}/object/epoch={epoch}": {"conv2.top1": 1.0 * epoch} for variant, epoch in keys}))
    assert points_of(accuracy) == {f"{variant}, conv2": [(9, 9), (10, 10), (100, 100)] for variant in ("half", "fifth")}
    assert "pretext" not in accuracy.caption


def test_pretraining_without_snapshots_is_not_shown(run_of: MakeRun):
    accuracy, *_ = draw_trajectory(run_of(SNAPSHOTS, **{**KEPT, "artifacts": {}}))
    assert list(lines_of(accuracy)) == ["object, conv2", "object, conv2, 5 labels per class"]


@pytest.mark.parametrize(
    ("draw", "stages"),
    [
        (draw_layers, {"single": LAYERS["single"], "few": LAYERS["few"]}),
        (draw_few_labels, {"probe": {"conv2.top1": 90.0}, "few/epoch=1": {"conv2.k1.top1": 50.0}}),
        (few_labels_table, {"probe": {"conv2.top1": 90.0}, "few/epoch=1": {"conv2.k1.top1": 50.0}}),
        (draw_curves, {"pretrain": {"pretext_top1": 80.0}, "probe": {"conv2.top1": 90.0}}),
        (draw_trajectory, {"probe": {"conv2.top1": 1.0}}),
    ],
)
def test_without_measurements_there_is_nothing(draw: Callable, stages: dict, run_of: MakeRun):
    assert list(draw(run_of(stages, logs={"pretrain": [], "probe": LOG})) or []) == []
