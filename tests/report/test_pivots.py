from pathlib import Path

from sslkit.report.run_folder import read_run
from sslkit.report.tables.run_tables import pivot_tables
from tests.report.run_folders import make_run

SWEEP = {
    "blocks3/probe": {"conv1.top1": 80.0, "conv2.top1": 85.0},
    "blocks4/probe": {"conv1.top1": 81.0, "conv2.top1": 86.0, "conv3.top1": 60.0},
    "random_probe": {"conv1.top1": 50.0},
}


def markdown_of(folder: Path) -> dict[str, list[str]]:
    return {table.key: table.markdown().splitlines() for table in pivot_tables(read_run(folder))}


def test_variants_by_metrics(tmp_path: Path):
    assert markdown_of(make_run(tmp_path, SWEEP)) == {
        "probe_by_variant": [
            "| variant | conv1.top1 | conv2.top1 | conv3.top1 |",
            "| --- | ---: | ---: | ---: |",
            "| blocks3 | 80.00 | 85.00 |  |",
            "| blocks4 | 81.00 | 86.00 | 60.00 |",
        ]
    }


def test_the_papers_figures_stand_below_ours(tmp_path: Path):
    paper = {"blocks3/probe.conv2.top1": 88.26}
    assert markdown_of(make_run(tmp_path, SWEEP, paper=paper))["probe_by_variant"] == [
        "| variant | figures | conv1.top1 | conv2.top1 | conv3.top1 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| blocks3 | ours | 80.00 | 85.00 |  |",
        "| blocks3 | paper |  | 88.26 |  |",
        "| blocks4 | ours | 81.00 | 86.00 | 60.00 |",
    ]


def test_metrics_by_epochs(tmp_path: Path):
    stages = {f"object/epoch={epoch}": {"conv1.top1": float(epoch), "conv2.top1": 2.0 * epoch} for epoch in (10, 0, 9)}
    assert markdown_of(make_run(tmp_path, stages)) == {
        "object_by_epoch": [
            "| metric | 0 | 9 | 10 |",
            "| --- | ---: | ---: | ---: |",
            "| conv1.top1 | 0.00 | 9.00 | 10.00 |",
            "| conv2.top1 | 0.00 | 18.00 | 20.00 |",
        ]
    }


def test_variants_and_metrics_by_epochs(tmp_path: Path):
    stages = {
        "half/object/epoch=0": {"conv1.top1": 1.0},
        "half/object/epoch=1": {"conv1.top1": 2.0},
        "fifth/object/epoch=1": {"conv1.top1": 3.0},
    }
    assert markdown_of(make_run(tmp_path, stages))["object_by_epoch"][2:] == [
        "| half | conv1.top1 | 1.00 | 2.00 |",
        "| fifth | conv1.top1 |  | 3.00 |",
    ]


def test_a_plain_run_has_none(tmp_path: Path):
    assert markdown_of(make_run(tmp_path, {"pretrain": {"pretext_top1": 90.0}, "probe": {"conv1.top1": 1.0, "conv2.top1": 2.0}})) == {}
