from pathlib import Path

from sslkit.report.charts.accuracy import draw_layers
from sslkit.report.run_folder import read_run
from tests.report.drawn import legend_of, lines_of, ticks_of
from tests.report.run_folders import make_run

STAGES = {
    "blocks3/probe": {"conv1.top1": 80.0, "conv2.top1": 85.0},
    "blocks4/probe": {"conv1.top1": 81.0, "conv2.top1": 86.0, "conv10.top1": 60.0},
    "single": {"conv2.top1": 90.0},
    "few": {"conv1.k1.top1": 20.0, "conv2.k1.top1": 30.0},
    "object/epoch=1": {"conv1.top1": 1.0, "conv2.top1": 2.0},
}


def test_a_line_for_each_stage_with_several_layers(tmp_path: Path):
    picture = draw_layers(read_run(make_run(tmp_path, STAGES)))
    assert picture is not None
    assert ticks_of(picture) == ["conv1", "conv2", "conv10"]
    assert {label: line.points for label, line in lines_of(picture).items()} == {
        "blocks3": [(0, 80.0), (1, 85.0)],
        "blocks4": [(0, 81.0), (1, 86.0), (2, 60.0)],
    }


def test_the_papers_figures_are_rings_of_the_same_colour(tmp_path: Path):
    paper = {"blocks3/probe.conv1.top1": 85.45, "blocks3/probe.conv3.top1": 62.09}
    picture = draw_layers(read_run(make_run(tmp_path, STAGES, paper=paper)))
    assert picture is not None
    lines = lines_of(picture)
    assert ticks_of(picture) == ["conv1", "conv2", "conv10", "conv3"]
    assert lines["blocks3, paper"].points == [(0, 85.45), (3, 62.09)]
    assert lines["blocks3, paper"].look[0] == lines["blocks3"].look[0]
    assert (lines["blocks3"].hollow, lines["blocks3, paper"].hollow) == (False, True)
    assert legend_of(picture) == ["blocks3", "blocks3, paper", "blocks4"]


def test_without_several_layers_there_is_nothing(tmp_path: Path):
    assert draw_layers(read_run(make_run(tmp_path, {"single": STAGES["single"], "few": STAGES["few"]}))) is None
