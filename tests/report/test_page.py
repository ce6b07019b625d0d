import base64
import hashlib
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sslkit.report.comparison import compare
from sslkit.report.page.page import Report, RunReport, render_markdown, render_page
from sslkit.report.page.sections import run_sections
from sslkit.report.pictures.all import Pictures
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import read_run
from tests.report.page_tags import Tags
from tests.report.run_folders import heldout_line, make_run, train_line
from tests.report.test_embedded import noise

EVIL = "<script>alert('x')</script>&\""
LOG = [train_line(1, loss=1.0, top1=60.0, lr=0.1, images_per_second=900.0), heldout_line(2, loss=0.9, top1=65.0)]


def run_folder(folder: Path, *, paper: dict[str, float] | None = None, text: str = "mine") -> Path:
    """A run with something in every section; ``text`` wherever a user's words stand."""
    stages = {
        "pretrain": {"pretext_loss": 0.25, "pretext_top1": 93.456},
        "a/probe": {"conv1.top1": 80.0, "conv2.top1": 90.504},
        "b/probe": {"conv1.top1": 81.0, "conv2.top1": 91.0},
        "few": {"conv2.k1.top1": 50.0, "conv2.k1.top1_std": 2.5, f"{text}.k5.top1": 60.0},
        "object/epoch=0": {"conv2.top1": 40.0, "conv2.rankme": 2.0},
        "object/epoch=2": {"conv2.top1": 50.0, "conv2.rankme": 3.0},
    }
    margins = {f"gain {text}": ("a/probe.conv2.top1", "a/probe.conv1.top1")}
    recipe = {"data": {"name": text, "root": text}, "notes": {"text": text}}
    artifacts = {"a/probe": {"device": f"cpu {text}"}, "pretrain": {"snapshot_epochs": [0, 2]}}
    return make_run(folder, stages, paper=paper, margins=margins, logs={"pretrain": LOG}, recipe=recipe, artifacts=artifacts)


def report_of(*folders: Path, pictures: Pictures | None = None) -> Report:
    runs = [read_run(folder) for folder in folders]
    reports = [RunReport(folder.name, run, run_sections(run, pictures or Pictures())) for folder, run in zip(folders, runs, strict=True)]
    return Report(reports, compare(runs) if len(runs) > 1 else None)


def page_of(*folders: Path, pictures: Pictures | None = None) -> Tags:
    return Tags(render_page(report_of(*folders, pictures=pictures)))


def test_every_section_is_there_and_in_the_contents(tmp_path: Path):
    page = page_of(run_folder(tmp_path), pictures=Pictures((Picture("p", "Filters", "Caption.", "Alt", noise(20, 10), raster=True),)))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["run", "margins", "results", "charts", "curves", "pictures", "stages", "environment", "recipe"]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [f"#{section}" for section in sections]
    assert [tag for tag, _ in page.tags].count("figure") == 9  # layers, few labels, accuracy, RankMe; four curves; one picture


def test_a_section_without_content_is_left_out(tmp_path: Path):
    page = page_of(make_run(tmp_path, {"knn": {"conv2.top1": 70.0}}))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["run", "results", "stages", "environment", "recipe"]


def test_every_figure_is_there(tmp_path: Path):
    page = page_of(run_folder(tmp_path))
    assert ["pretrain", "pretext_top1", "93.46"] in page.rows
    assert ["a/probe", "conv2.top1", "90.50"] in page.rows
    assert ["few", "conv2", "50.00 ± 2.50", ""] in page.rows
    assert ["a", "80.00", "90.50"] in page.rows
    assert ["conv2.rankme", "2.00", "3.00"] in page.rows
    assert "gain mine +10.50 a/probe.conv2.top1 minus a/probe.conv1.top1" in page.text


def test_the_papers_figures_stand_beside_ours(tmp_path: Path):
    page = page_of(run_folder(tmp_path, paper={"a/probe.conv2.top1": 91.16}))
    assert ["stage", "metric", "ours", "paper", "difference"] in page.rows
    assert ["a/probe", "conv2.top1", "90.50", "91.16", "-0.66"] in page.rows
    assert ["a", "paper", "", "91.16"] in page.rows


def test_the_page_says_where_the_figures_come_from(tmp_path: Path):
    text = page_of(run_folder(tmp_path)).text
    for fact in ("2025-01-01T00:00:00+00:00", "0123456789ab-dirty", "torch 2.6.0", "sslkit-rotnet 1.5", "sslkit run mine.toml"):
        assert fact in text
    assert 'name = "mine"' in text


def test_markdown_and_csv_hold_the_figures_of_the_page(tmp_path: Path):
    """Row by row: what the page shows, the other two show."""
    report = report_of(run_folder(tmp_path, paper={"a/probe.conv2.top1": 91.16}))
    shown = [row for row in Tags(render_page(report)).rows if row]
    markdown = render_markdown(report)
    for _, table in report.tables():
        if table.layout != "cards":
            cells = [[f"{cell.text(column)}{cell.extra()}" for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
            assert [row for row in cells if row not in shown] == []
        assert table.markdown() in markdown
        for line, row in zip(table.csv().splitlines()[1:], table.rows, strict=True):
            assert all(str(cell.value) in line for cell in row if isinstance(cell.value, float))


def test_an_unfinished_run_says_so(tmp_path: Path):
    make_run(tmp_path, {"probe": {"conv2.top1": 70.0}}, begun=["knn"], pending=["knn", "finetune"])
    page, markdown = page_of(tmp_path), render_markdown(report_of(tmp_path))
    for text in (page.text, markdown):
        assert "This run is not finished: the report shows what there is." in text
        assert "1 finished, still to run: knn, finetune" in text


def test_a_run_that_measured_nothing_says_so(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text('name = "mine"')
    assert "Nothing was measured on held-out images yet." in page_of(tmp_path).text
    assert "Nothing was measured on held-out images yet." in render_markdown(report_of(tmp_path))


def test_why_there_are_no_pictures(tmp_path: Path):
    pictures = Pictures(note="There are no pictures, because the data is not on this machine.")
    assert pictures.note in page_of(run_folder(tmp_path), pictures=pictures).text
    assert pictures.note in render_markdown(report_of(tmp_path, pictures=pictures))


def test_several_runs_are_compared_first(tmp_path: Path):
    folders = [run_folder(tmp_path / "a"), make_run(tmp_path / "b", {"pretrain": {"pretext_top1": 95.0}}, name="other", pending=["knn"])]
    page = page_of(*folders)
    assert ["pretrain.pretext_top1", "93.46", "95.00 (+1.54)"] in page.rows
    assert ["object/epoch=0.conv2.rankme", "2.00", "-"] in page.rows
    assert "Comparison of 2 runs" in page.text
    assert "other is not finished; still to run: knn" in page.text
    assert [attributes["id"] for tag, attributes in page.tags if tag == "article"] == ["run1", "run2"]
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert render_markdown(report_of(*folders)).index("# Comparison") < render_markdown(report_of(*folders)).index("## b")


def test_the_page_is_self_contained(tmp_path: Path):
    """Nothing is fetched: it opens offline, and tells nobody that it was opened."""
    report = report_of(run_folder(tmp_path), pictures=Pictures((Picture("p", "Filters", "Caption.", "Alt", noise(20, 10), raster=True),)))
    source = render_page(report)
    page = Tags(source)
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "video", "audio", "source", "base", "form"}
    assert all(reference.startswith(("#", "data:")) for name in ("src", "href", "srcset", "action") for reference in page.all(name))
    without_data = re.sub(r'"data:[^"]*"', "", source)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", without_data)
    assert '<meta charset="utf-8">' in source


def test_the_browser_may_run_our_script_alone(tmp_path: Path):
    page = page_of(run_folder(tmp_path))
    (script,) = page.scripts
    (policy,) = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert not page.all("onclick")


def test_names_are_text_and_never_markup(tmp_path: Path):
    page, plain = page_of(run_folder(tmp_path / "evil", text=EVIL)), page_of(run_folder(tmp_path / "plain"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.scripts == plain.scripts
    assert ["few", f"{EVIL}.k5.top1", "60.00"] in page.rows
    assert f"gain {EVIL}" in page.text
    kinds = ("section", "table", "figure", "script", "svg", "td", "li")
    assert [tag for tag, _ in page.tags if tag in kinds] == [tag for tag, _ in plain.tags if tag in kinds]
    assert "<script" not in render_markdown(report_of(tmp_path / "evil")).replace("\\<script", "")


@pytest.mark.slow
def test_a_page_stays_small(tmp_path: Path):
    """However many pictures there are, and however little they can be compressed."""
    pictures = tuple(Picture(f"p{i}", "Noise", "Caption.", "Alt", noise(800, 600), raster=True) for i in range(8))
    assert len(render_page(report_of(run_folder(tmp_path), pictures=Pictures(pictures)))) < 5_000_000


def test_the_same_run_gives_the_same_bytes(tmp_path: Path):
    run_folder(tmp_path)
    assert render_page(report_of(tmp_path)) == render_page(report_of(tmp_path))


def test_an_empty_figure_is_no_obstacle(tmp_path: Path):
    pictures = Pictures((Picture("p", "Nothing", "Caption.", "Alt", Figure(), raster=True),))
    assert "Nothing." in page_of(run_folder(tmp_path), pictures=pictures).text
