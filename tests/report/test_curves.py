from pathlib import Path

from sslkit.report.charts.epochs import MAX_POINTS, draw_curves
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import read_run
from tests.report.drawn import axes_of, legend_of, lines_of
from tests.report.run_folders import Log, heldout_line, make_run, train_line

LOG = [
    train_line(0.5, loss=2.0, top1=30.0, entropy=1.0, lr=0.1, images_per_second=900.0),
    heldout_line(1, loss=1.8, top1=35.0),
    train_line(1, loss=1.0, top1=60.0, entropy=0.5, lr=0.0, images_per_second=1000.0),
    heldout_line(2, loss=0.9, top1=65.0),
]


def curves(folder: Path, **logs: Log) -> dict[str, Picture]:
    keys = [key.replace("__", "/") for key in logs]
    run = make_run(folder, {key: {"pretext_top1": 1.0} for key in keys}, logs=dict(zip(keys, logs.values(), strict=True)))
    return {picture.key: picture for picture in draw_curves(read_run(run))}


def test_a_chart_for_every_metric_in_a_useful_order(tmp_path: Path):
    found = curves(tmp_path, pretrain=LOG)
    assert list(found) == ["curve-loss", "curve-top1", "curve-entropy", "curve-lr", "curve-images_per_second"]
    assert [axes_of(picture).get_ylabel() for picture in found.values()] == [
        "loss",
        "top-1 accuracy (%)",
        "entropy",
        "learning rate",
        "images per second",
    ]


def test_training_is_a_line_and_held_out_images_are_marks(tmp_path: Path):
    lines = lines_of(curves(tmp_path, pretrain=LOG)["curve-top1"])
    assert lines["pretrain"].points == [(0.5, 30.0), (1, 60.0)]
    assert lines["pretrain, held out"].points == [(1, 35.0), (2, 65.0)]
    assert lines["pretrain"].look[1:] == ("-", "none")
    assert lines["pretrain, held out"].look[1:] == ("None", "o")


def test_what_was_not_held_out_has_no_marks(tmp_path: Path):
    picture = curves(tmp_path, pretrain=LOG)["curve-lr"]
    assert list(lines_of(picture)) == ["pretrain"]
    assert "held-out" not in picture.caption
    assert "held-out" in curves(tmp_path, pretrain=LOG)["curve-loss"].caption


def test_a_sweeps_stages_share_a_chart(tmp_path: Path):
    picture = curves(tmp_path, blocks3__pretrain=LOG, blocks4__pretrain=LOG)["curve-loss"]
    assert list(lines_of(picture)) == ["blocks3", "blocks4", "blocks3, held out", "blocks4, held out"]
    assert legend_of(picture) == ["blocks3", "blocks4"]


def test_throughput_begins_at_zero(tmp_path: Path):
    assert axes_of(curves(tmp_path, pretrain=LOG)["curve-images_per_second"]).get_ylim()[0] == 0


def test_long_logs_are_thinned_and_keep_their_ends(tmp_path: Path):
    log = [train_line(i / 100, loss=float(i)) for i in range(5_000)]
    points = lines_of(curves(tmp_path, pretrain=log)["curve-loss"])["pretrain"].points
    assert len(points) == MAX_POINTS
    assert (points[0], points[-1]) == ((0, 0), (49.99, 4_999))


def test_large_sweeps_are_thinned_further(tmp_path: Path):
    log = [train_line(i / 100, loss=float(i)) for i in range(500)]
    lines = lines_of(curves(tmp_path, **{f"v{i}__pretrain": log for i in range(40)})["curve-loss"])
    assert sum(len(line.points) for line in lines.values()) <= 6_000


def test_without_logs_there_is_nothing(tmp_path: Path):
    assert curves(tmp_path, pretrain=[]) == {}
    probe = make_run(tmp_path / "probe", {"probe": {"conv2.top1": 1.0}}, logs={"probe": LOG})
    assert list(draw_curves(read_run(probe))) == []
