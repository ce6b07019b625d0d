from pathlib import Path

from sslkit.report.page.sections import Section, run_sections
from sslkit.report.pictures.all import Pictures
from sslkit.report.run_folder import read_run
from tests.report.run_folders import make_run


def results_of(folder: Path, num_epochs: int) -> Section:
    stages = {f"object/epoch={epoch}": {"conv2.top1": float(epoch)} for epoch in range(num_epochs)}
    run = read_run(make_run(folder, {"probe": {"conv2.top1": 90.0}, **stages}))
    return next(section for section in run_sections(run, Pictures()) if section.key == "results")


def test_a_long_list_of_metrics_is_folded_where_it_is_summed_up(tmp_path: Path):
    short, long = results_of(tmp_path / "short", 3), results_of(tmp_path / "long", 40)
    assert [(table.key, table.layout) for table in short.tables] == [("object_by_epoch", "sortable"), ("results", "sortable")]
    assert [(table.key, table.layout) for table in long.tables] == [("object_by_epoch", "sortable"), ("results", "folded")]


def test_a_long_list_that_nothing_sums_up_stays_open(tmp_path: Path):
    run = read_run(make_run(tmp_path, {"probe": {f"conv{layer}.top1": 90.0 for layer in range(40)}}))
    (results,) = [section for section in run_sections(run, Pictures()) if section.key == "results"]
    assert [table.layout for table in results.tables] == ["sortable"]


def test_a_run_that_has_not_begun_has_little_to_say(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text('name = "mine"')
    sections = run_sections(read_run(tmp_path), Pictures())
    assert [section.key for section in sections] == ["run", "results", "recipe"]
    assert sections[1].note == "Nothing was measured on held-out images yet."
