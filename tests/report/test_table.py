import csv
import io

import pytest

from sslkit.report.table import Cell, Column, Table, escape_markdown

TABLE = Table(
    "few",
    "Few labels",
    (Column("stage"), Column("images", "count"), Column("20", "figure", missing="-"), Column("gain", "signed")),
    (
        (Cell("a|b"), Cell(50_000), Cell(90.504, std=1.006, strong=True), Cell(2.5)),
        (Cell("c"), Cell(None), Cell(88.0, difference=-2.504), Cell(-0.001)),
        (Cell("d"), Cell(3), Cell(None), Cell(None)),
    ),
)


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        "| stage | images | 20 | gain |",
        "| --- | ---: | ---: | ---: |",
        r"| a\|b | 50,000 | **90.50** ± 1.01 | +2.50 |",
        "| c |  | 88.00 (-2.50) | +0.00 |",
        "| d | 3 | - |  |",
    ]


def test_csv_holds_whole_numbers_and_what_stands_beside_them():
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["stage", "images", "20", "20 std", "20 difference", "gain"],
        ["a|b", "50000", "90.504", "1.006", "", "2.5"],
        ["c", "", "88.0", "", "-2.504", "-0.001"],
        ["d", "3", "", "", "", ""],
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv2.k20.top1_std", "conv2.k20.top1_std"),
        ("_x_", r"\_x\_"),
        ("a*b`c`", r"a\*b\`c\`"),
        ("<script>&", r"\<script\>&amp;"),
        ("two\nlines | here", r"two lines \| here"),
        ("[a](b)", r"\[a\](b)"),
        ("a\\b", r"a\\b"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str):
    assert escape_markdown(text) == shown
