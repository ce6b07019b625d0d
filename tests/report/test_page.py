import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sslkit import ArtifactError
from sslkit.artifacts import ARTIFACT, write_json, write_text
from sslkit.report.page import write_page

EVIL = "<script>alert('x')</script>&\""
HASH = "0123456789abcdef" * 4


def run_folder(folder: Path, *, paper: dict[str, float] | None = None, text: str = "mine") -> Path:
    """What a finished run of a pretraining stage, a probe and a fine-tuning stage leaves; ``text`` wherever a user's words stand."""
    stages: dict[str, dict[str, float]] = {
        "pretrain": {"pretext_loss": 0.25, "pretext_top1": 93.456},
        "probe": {"conv2.top1": 90.504, f"{text}.top1": 12.0},
        "finetune": {"conv4.top1": 92.0},
    }
    results = {"recipe": text, "stages": stages, "paper": paper or {}, "margins": {f"gain {text}": 18.004, "loss": -2.5}}
    write_json(folder / "results.json", results)
    for stage in stages:
        artifact: dict[str, Any] = {"stage": stage, "kind": "evaluate", "num_images": 50_000, "seconds": 61.25, "device": f"cpu {text}"}
        if stage == "probe":
            artifact["frozen_backbone"] = {"sha256_before": HASH, "sha256_after": HASH}
        write_json(folder / stage / ARTIFACT, artifact)
    environment = {
        "started": "2025-01-01T00:00:00+00:00",
        "command": ["sslkit", "run", text],
        "python": "3.11.0",
        "platform": f"Linux {text}",
        "devices": [f"cpu {text}"],
        "threads": 2,
        "versions": {"sslkit": "0.1.0", "torch": "2.6.0"},
        "plugins": {"sslkit-rotnet": "1.5"},
    }
    write_json(folder / "environment.json", environment)
    write_text(folder / "recipe.toml", f"name = '{text}'\n\n[data]\nname = 'digits'\n")
    return folder


class Tags(HTMLParser):
    """Collects tags, attributes and the text of cells and other elements; checks that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


def page_of(folder: Path) -> Tags:
    path = write_page(folder)
    assert path == folder / "report.html"
    return Tags(path.read_text(encoding="utf-8"))


def test_the_page_holds_every_figure(tmp_path: Path):
    page = page_of(run_folder(tmp_path))
    assert ["pretrain", "pretext_top1", "93.46"] in page.rows
    assert ["probe", "conv2.top1", "90.50"] in page.rows
    assert ["finetune", "conv4.top1", "92.00"] in page.rows
    assert ["stage", "metric", "ours"] in page.rows  # no columns for a paper that nobody wrote down
    text = " ".join(page.texts)
    assert "gain mine" in text
    assert "+18.00" in text
    assert "-2.50" in text


def test_the_papers_figures_stand_beside_ours(tmp_path: Path):
    page = page_of(run_folder(tmp_path, paper={"probe.conv2.top1": 91.16}))
    assert ["stage", "metric", "ours", "paper", "difference"] in page.rows
    assert ["probe", "conv2.top1", "90.50", "91.16", "-0.66"] in page.rows
    assert ["finetune", "conv4.top1", "92.00", "", ""] in page.rows


def test_the_page_says_where_the_figures_come_from(tmp_path: Path):
    page = page_of(run_folder(tmp_path))
    stages = {row[0]: row[1:] for row in page.rows if len(row) == 6}
    assert stages["probe"] == ["evaluate", "50,000", "61.2", "cpu mine", f"unchanged, {HASH[:12]}"]
    assert stages["finetune"][-1] == "trained"
    text = " ".join(page.texts)
    for fact in (
        "2025-01-01T00:00:00+00:00",
        "Linux mine, Python 3.11.0, 2 threads",
        "torch 2.6.0",
        "sslkit-rotnet 1.5",
        "sslkit run mine",
    ):
        assert fact in text
    assert "[data]\nname = 'digits'" in text


def test_the_page_is_self_contained(tmp_path: Path):
    """Nothing is fetched: it opens offline, and tells nobody that it was opened."""
    page = page_of(run_folder(tmp_path))
    fetching = {"link", "script", "img", "iframe", "object", "embed", "video", "audio", "source", "base", "form"}
    assert not [tag for tag, _ in page.tags if tag in fetching]
    assert not [attributes for _, attributes in page.tags if attributes.keys() & {"src", "href", "srcset", "action", "background"}]
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", source)
    assert '<meta charset="utf-8">' in source


def test_names_are_text_and_never_markup(tmp_path: Path):
    page = page_of(run_folder(tmp_path, text=EVIL))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ["probe", f"{EVIL}.top1", "12.00"] in page.rows
    plain = page_of(run_folder(tmp_path / "plain"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert "".join(page.texts).count(EVIL) == "".join(plain.texts).count("mine")


def test_a_page_is_written_anew(tmp_path: Path):
    first = write_page(run_folder(tmp_path)).read_text(encoding="utf-8")
    write_json(tmp_path / "results.json", {"recipe": "mine", "stages": {"probe": {"conv2.top1": 1.0}}, "paper": {}, "margins": {}})
    second = write_page(tmp_path).read_text(encoding="utf-8")
    assert "90.50" in first
    assert "90.50" not in second
    assert "Margins" not in second


@pytest.mark.parametrize("name", ["results.json", "environment.json", f"probe/{ARTIFACT}"])
def test_a_folder_that_is_no_run_is_refused(name: str, tmp_path: Path):
    run_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{re.escape(name)}: no such file"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()
