from pathlib import Path

from sslkit.report.charts.accuracy import draw_few_labels, few_labels_table
from sslkit.report.run_folder import read_run
from tests.report.drawn import axes_of, legend_of, lines_of, ticks_of
from tests.report.run_folders import make_run

STAGES = {
    "pretrain": {"pretext_top1": 90.0},
    "rotnet": {"conv2.k1.top1": 50.0, "conv2.k1.top1_std": 2.5, "conv2.k5000.top1": 90.0},
    "supervised": {"conv3.k1.top1": 30.0, "conv3.k20.top1": 60.0},
}


def test_a_line_a_stage_over_a_logarithmic_axis(tmp_path: Path):
    picture = draw_few_labels(read_run(make_run(tmp_path, STAGES)))
    assert picture is not None
    assert axes_of(picture).get_xscale() == "log"
    assert ticks_of(picture) == ["1", "20", "5,000"]
    lines = lines_of(picture)
    assert {label: line.points for label, line in lines.items()} == {
        "rotnet, conv2": [(1, 50.0), (5000, 90.0)],
        "supervised, conv3": [(1, 30.0), (20, 60.0)],
    }
    (container,) = axes_of(picture).containers
    assert [tuple(map(tuple, segment)) for segment in container[2][0].get_segments()] == [
        ((1, 47.5), (1, 52.5)),
        ((5000, 90.0), (5000, 90.0)),
    ]


def test_the_papers_figures_are_rings(tmp_path: Path):
    picture = draw_few_labels(read_run(make_run(tmp_path, STAGES, paper={"rotnet.conv2.k1.top1": 55.0})))
    assert picture is not None
    assert legend_of(picture) == ["rotnet, conv2", "rotnet, conv2, paper", "supervised, conv3"]
    assert lines_of(picture)["rotnet, conv2, paper"].points == [(1, 55.0)]
    assert lines_of(picture)["rotnet, conv2, paper"].hollow
    assert "Rings" in picture.caption


def test_the_same_as_a_table(tmp_path: Path):
    table = few_labels_table(read_run(make_run(tmp_path, STAGES)))
    assert table is not None
    assert table.markdown().splitlines() == [
        "| stage | layer | 1 | 20 | 5,000 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| rotnet | conv2 | 50.00 ± 2.50 |  | 90.00 |",
        "| supervised | conv3 | 30.00 | 60.00 |  |",
    ]


def test_without_few_labels_there_is_nothing(tmp_path: Path):
    run = read_run(make_run(tmp_path, {"probe": {"conv2.top1": 90.0}, "few/epoch=1": {"conv2.k1.top1": 50.0}}))
    assert draw_few_labels(run) is None
    assert few_labels_table(run) is None
