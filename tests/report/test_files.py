import csv
import re
from pathlib import Path

import pytest

from sslkit import ArtifactError
from sslkit.report.page.files import write_report
from sslkit.report.page.page import MAX_PICTURES_BYTES
from tests.report.page_tags import Tags
from tests.report.run_folders import make_run

STAGES = {"probe": {"conv1.top1": 80.0, "conv2.top1": 90.504}}


def test_one_runs_report_lies_in_its_folder(tmp_path: Path):
    files = write_report([make_run(tmp_path, STAGES)])
    assert files.page == tmp_path / "report.html"
    assert files.markdown == tmp_path / "report.md"
    assert [path.relative_to(tmp_path).as_posix() for path in files.tables] == [
        f"tables/{name}.csv" for name in ("run", "results", "stages", "environment")
    ]


def test_the_three_hold_the_same_figures(tmp_path: Path):
    files = write_report([make_run(tmp_path, STAGES)])
    rows = list(csv.reader((tmp_path / "tables" / "results.csv").read_text().splitlines()))
    assert rows == [["stage", "metric", "ours"], ["probe", "conv1.top1", "80.0"], ["probe", "conv2.top1", "90.504"]]
    assert ["probe", "conv2.top1", "90.50"] in Tags(files.page.read_text()).rows
    assert "| probe | conv2.top1 | 90.50 |" in files.markdown.read_text()


def test_several_runs_have_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = [make_run(tmp_path / "runs" / name, STAGES) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    files = write_report(folders)
    assert files.page == Path("reports/a+b/report.html")
    names = [path.stem for path in files.tables]
    assert names[0] == "comparison"
    assert len(set(names)) == len(names) == 9
    assert {"run1_results", "run2_results"} < set(names)


def test_many_runs_have_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = [make_run(tmp_path / f"a_run_with_quite_a_long_name_{i}", STAGES) for i in range(4)]
    monkeypatch.chdir(tmp_path)
    assert write_report(folders).page.parent == Path("reports/a_run_with_quite_a_long_name_0+3-more")


def test_a_report_is_written_anew(tmp_path: Path):
    write_report([make_run(tmp_path, STAGES)])
    first = (tmp_path / "report.html").read_text()
    write_report([make_run(tmp_path, {"probe": {"conv2.top1": 1.0}})])
    assert "90.50" in first
    assert "90.50" not in (tmp_path / "report.html").read_text()
    assert "90.504" not in (tmp_path / "tables" / "results.csv").read_text()


def test_a_stages_name_is_no_path(tmp_path: Path):
    """A folder from somebody else may claim any name."""
    stages = {"a/..;x y": {"conv2.top1": 1.0}, "b/..;x y": {"conv2.top1": 2.0}}
    files = write_report([make_run(tmp_path, stages)])
    assert {path.parent for path in files.tables} == {tmp_path / "tables"}
    assert "..\\x y" not in "".join(path.name for path in files.tables)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path):
    run = make_run(tmp_path / "run", STAGES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=rf"^{re.escape(str(tmp_path / 'file'))}: the report cannot be written \(.+--output$"):
        write_report([run], tmp_path / "file")


def test_a_damaged_run_leaves_no_report(tmp_path: Path):
    make_run(tmp_path, STAGES)
    (tmp_path / "probe" / "artifact.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"artifact\.json: damaged"):
        write_report([tmp_path])
    assert not (tmp_path / "report.html").exists()


def test_pictures_leave_room_for_the_rest():
    """As base64 they take four thirds of their size."""
    assert MAX_PICTURES_BYTES * 4 / 3 < 4_500_000
