import base64
import csv
import hashlib
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sslkit import ArtifactError
from sslkit.report.page import MAX_PICTURES_BYTES, Report, make_report, render_markdown, render_page, run_sections, write_report
from sslkit.report.picture import Picture
from sslkit.report.pictures.all import Pictures
from sslkit.report.run_folder import read_run
from tests.report.page_tags import Tags
from tests.report.run_folders import MakeRun, heldout_line, make_run, train_line
from tests.report.test_picture import noise

EVIL = "<script>alert('x')</script>&\""
LOG = [train_line(1, loss=1.0, top1=60.0, lr=0.1, images_per_second=900.0), heldout_line(2, loss=0.9, top1=65.0)]


def full_report(folder: Path, text: str = "mine") -> Report:
    """Of a run with something in every section; ``text`` wherever a user's words stand."""
    stages = {
        "pretrain": {"pretext_loss": 0.25, "pretext_top1": 93.456},
        "a/probe": {"conv1.top1": 80.0, "conv2.top1": 90.504},
        "b/probe": {"conv1.top1": 81.0, "conv2.top1": 91.0},
        "few": {"conv2.k1.top1": 50.0, "conv2.k1.top1_std": 2.5, f"{text}.k5.top1": 60.0},
        "object/epoch=0": {"conv2.top1": 40.0, "conv2.rankme": 2.0},
        "object/epoch=2": {"conv2.top1": 50.0, "conv2.rankme": 3.0},
    }
    run = make_run(
        folder,
        stages,
        paper={"a/probe.conv2.top1": 91.16},
        margins={f"gain {text}": ("a/probe.conv2.top1", "a/probe.conv1.top1")},
        logs={"pretrain": LOG},
        recipe={"data": {"name": text, "root": text}, "notes": {"text": text}},
        artifacts={"a/probe": {"device": f"cpu {text}"}, "pretrain": {"snapshot_epochs": [0, 2]}},
    )
    return make_report([read_run(run)], [pictures_of(noise(20, 10), Figure())])  # an empty figure is no obstacle


def pictures_of(*figures: Figure) -> Pictures:
    return Pictures(tuple(Picture("Filters", "Caption.", "Alt", figure, raster=True) for figure in figures))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return full_report(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def source(report: Report) -> str:
    return render_page(report)


@pytest.fixture(scope="module")
def page(source: str) -> Tags:
    return Tags(source)


@pytest.mark.parametrize(
    ("num_epochs", "num_layers", "layouts"),
    [
        (3, 1, {"object_by_epoch": "sortable", "results": "sortable"}),
        (40, 1, {"object_by_epoch": "sortable", "results": "folded"}),
        (0, 40, {"results": "sortable"}),  # nothing else sums them up
    ],
)
def test_a_long_list_of_metrics_is_folded_where_it_is_summed_up(num_epochs: int, num_layers: int, layouts: dict, run_of: MakeRun):
    snapshots = {f"object/epoch={epoch}": {"conv2.top1": float(epoch)} for epoch in range(num_epochs)}
    sections = run_sections(run_of({"probe": {f"conv{layer}.top1": 90.0 for layer in range(num_layers)}, **snapshots}), Pictures())
    (results,) = [section for section in sections if section.key == "results"]
    assert {table.key: table.layout for table in results.tables} == layouts


def test_every_section_is_there_and_in_the_contents(page: Tags):
    sections = ["run", "margins", "results", "charts", "curves", "pictures", "stages", "environment", "recipe"]
    assert page.attributes("section", "id") == sections
    assert page.attributes("a", "href") == [f"#{section}" for section in sections]
    assert [tag for tag, _ in page.tags].count("figure") == 10  # layers, few labels, accuracy, RankMe; four curves; two pictures


def test_a_section_without_content_is_left_out(run_of: MakeRun):
    page = Tags(render_page(make_report([run_of({"knn": {"conv2.top1": 70.0}})], [Pictures()])))
    assert page.attributes("section", "id") == ["run", "results", "stages", "environment", "recipe"]


def test_every_figure_is_there(page: Tags):
    assert ["stage", "metric", "ours", "paper", "difference"] in page.rows
    assert ["pretrain", "pretext_top1", "93.46", "", ""] in page.rows
    assert ["a/probe", "conv2.top1", "90.50", "91.16", "-0.66"] in page.rows
    assert ["few", "conv2", "50.00 ± 2.50", ""] in page.rows
    assert ["a", "ours", "80.00", "90.50"] in page.rows
    assert ["a", "paper", "", "91.16"] in page.rows
    assert ["conv2.rankme", "2.00", "3.00"] in page.rows
    assert "gain mine +10.50 a/probe.conv2.top1 minus a/probe.conv1.top1" in page.text


def test_the_page_says_where_the_figures_come_from(page: Tags):
    for fact in ("2025-01-01T00:00:00+00:00", "0123456789ab-dirty", "torch 2.6.0", "sslkit-rotnet 1.5", "sslkit run mine.toml"):
        assert fact in page.text
    assert 'name = "mine"' in page.text


def test_markdown_and_csv_hold_the_figures_of_the_page(report: Report, page: Tags):
    """Row by row: what the page shows, the other two show."""
    markdown = render_markdown(report)
    for _, table in report.tables():
        if table.layout != "cards":
            cells = [[f"{cell.text(column)}{cell.extra()}" for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
            assert [row for row in cells if row not in page.rows] == []
        assert table.markdown() in markdown
        for line, row in zip(table.csv().splitlines()[1:], table.rows, strict=True):
            assert all(str(cell.value) in line for cell in row if isinstance(cell.value, float))


def test_an_unfinished_run_says_so(run_of: MakeRun):
    report = make_report([run_of({"probe": {"conv2.top1": 70.0}}, begun=["knn"], pending=["knn", "finetune"])], [Pictures()])
    for text in (Tags(render_page(report)).text, render_markdown(report)):
        assert "This run is not finished: the report shows what there is." in text
        assert "1 finished, still to run: knn, finetune" in text


def test_a_run_that_has_not_begun_says_why_it_has_no_metrics_and_no_pictures(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text('name = "mine"')
    pictures = Pictures(note="There are no pictures, because the data is not on this machine.")
    report = make_report([read_run(tmp_path)], [pictures])
    page = Tags(render_page(report))
    assert page.attributes("section", "id") == ["run", "results", "pictures", "recipe"]
    for text in (page.text, render_markdown(report)):
        assert "Nothing was measured on held-out images yet." in text
        assert pictures.note in text


def test_several_runs_are_compared_first(report: Report, run_of: MakeRun):
    other = run_of({"pretrain": {"pretext_top1": 95.0}}, name="other", pending=["knn"])
    both = make_report([report.runs[0].run, other], [Pictures()] * 2)
    page, markdown = Tags(render_page(both)), render_markdown(both)
    assert ["pretrain.pretext_top1", "93.46", "95.00 (+1.54)"] in page.rows
    assert ["object/epoch=0.conv2.rankme", "2.00", "-"] in page.rows
    assert "Comparison of 2 runs" in page.text
    assert "other is not finished; still to run: knn" in page.text
    assert page.attributes("article", "id") == ["run1", "run2"]
    assert len(page.all("id")) == len(set(page.all("id")))
    assert {link.removeprefix("#") for link in page.attributes("a", "href")} <= set(page.all("id"))
    assert markdown.index("# Comparison") < markdown.index("## other")


def test_the_page_is_self_contained(source: str, page: Tags):
    """Nothing is fetched: it opens offline, and tells nobody that it was opened."""
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "video", "audio", "source", "base", "form"}
    assert all(reference.startswith(("#", "data:")) for name in ("src", "href", "srcset", "action") for reference in page.all(name))
    without_data = re.sub(r'"data:[^"]*"', "", source)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", without_data)
    assert '<meta charset="utf-8">' in source


def test_the_browser_may_run_our_script_alone(page: Tags):
    (script,) = page.scripts
    (policy,) = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert not page.all("onclick")


def test_names_are_text_and_never_markup(page: Tags, tmp_path: Path):
    report = full_report(tmp_path, EVIL)
    evil = Tags(render_page(report))
    assert [tag for tag, _ in evil.tags].count("script") == 1
    assert evil.scripts == page.scripts
    assert ["few", f"{EVIL}.k5.top1", "60.00", "", ""] in evil.rows
    assert f"gain {EVIL}" in evil.text
    kinds = ("section", "table", "figure", "script", "svg", "td", "li")
    assert [tag for tag, _ in evil.tags if tag in kinds] == [tag for tag, _ in page.tags if tag in kinds]
    assert "<script" not in render_markdown(report).replace("\\<script", "")


def test_the_same_run_gives_the_same_bytes(report: Report, source: str):
    assert render_page(full_report(report.runs[0].run.folder)) == source


@pytest.mark.slow
def test_a_page_stays_small(report: Report):
    """However many pictures there are, and however little they can be compressed."""
    pictures = pictures_of(*(noise(800, 600) for _ in range(8)))
    assert len(render_page(make_report([report.runs[0].run], [pictures]))) < 5_000_000


def test_pictures_leave_room_for_the_rest():
    """As base64 they take four thirds of their size."""
    assert MAX_PICTURES_BYTES * 4 / 3 < 4_500_000


STAGES = {"probe": {"conv1.top1": 80.0, "conv2.top1": 90.504}}


def test_one_runs_report_lies_in_its_folder(tmp_path: Path):
    files = write_report([make_run(tmp_path, STAGES)])
    assert files.page == tmp_path / "report.html"
    assert files.markdown == tmp_path / "report.md"
    assert files.tables == tuple(tmp_path / "tables" / f"{name}.csv" for name in ("run", "results", "stages", "environment"))
    rows = list(csv.reader((tmp_path / "tables" / "results.csv").read_text().splitlines()))
    assert rows == [["stage", "metric", "ours"], ["probe", "conv1.top1", "80.0"], ["probe", "conv2.top1", "90.504"]]
    assert ["probe", "conv2.top1", "90.50"] in Tags(files.page.read_text()).rows
    assert "| probe | conv2.top1 | 90.50 |" in files.markdown.read_text()


LONG = [f"a_run_with_quite_a_long_name_{i}" for i in range(4)]


@pytest.mark.parametrize(("runs", "output"), [(["a", "b"], "a+b"), (LONG, "a_run_with_quite_a_long_name_0+3-more")])
def test_several_runs_have_a_folder_of_their_own(runs: list[str], output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = [make_run(tmp_path / "runs" / name, STAGES) for name in runs]
    monkeypatch.chdir(tmp_path)
    files = write_report(folders)
    assert files.page == Path("reports", output, "report.html")
    tables = [f"run{number}_{name}" for number in range(1, len(runs) + 1) for name in ("run", "results", "stages", "environment")]
    assert [path.stem for path in files.tables] == ["comparison", *tables]


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
