import math
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sslkit.report.chart import COLORS, DASHES, MARKERS, Series, draw_chart, plain, whole_epochs
from sslkit.report.picture import INK, Picture
from tests.report.drawn import axes_of, legend_of, lines_of, points_of, ticks_of


def chart(*series: Series, **options: object) -> Picture:
    return draw_chart("Title", "Caption.", series, x="epoch", y="loss", **options)


def test_lines_legend_and_labels():
    marks = Series(label="a, held out", points=[(1, 0.7)], line=0, beside="a")
    picture = chart(Series(label="a", points=[(0, 1.0), (1, 0.5)], marker=False), Series(label="b", points=[(0, 2.0)], style=1), marks)
    assert points_of(picture) == {"a": [(0, 1.0), (1, 0.5)], "b": [(0, 2.0)], "a, held out": [(1, 0.7)]}
    assert legend_of(picture) == ["a", "b"]
    assert (axes_of(picture).get_xlabel(), axes_of(picture).get_ylabel()) == ("epoch", "loss")
    assert (picture.title, picture.caption, picture.raster, picture.layout) == ("Title", "Caption.", False, "chart")


def test_a_reader_who_cannot_see_it_is_reported_where_lines_begin_and_end():
    picture = chart(Series(label="a", points=[(0, 1.0), (5, 0.25)]), Series(label="b", points=[(2, 3.0)]), Series(label="c", points=[]))
    assert picture.alt == "Chart of loss against epoch. a: 1 at 0, 0.25 at 5; b: 3 at 2; c: nothing."
    many = chart(*(Series(label=str(i), points=[(0, i)]) for i in range(10)))
    assert many.alt.endswith("7: 7 at 0; and 2 more.")


def test_lines_look_different_in_every_way():
    """With any colour vision, and in print."""
    looks = [line.look for line in lines_of(chart(*(Series(label=str(i), points=[(0, i), (1, i)], style=i) for i in range(4)))).values()]
    for column in zip(*looks, strict=True):
        assert len(set(column)) == 4
    assert len({(i % len(COLORS), i % len(DASHES), i % len(MARKERS)) for i in range(140)}) == 140


def _luminance(color: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("ground", ["#ffffff", "#14171a"])
def test_colours_stand_out_from_a_light_and_a_dark_page(ground: str):
    """By the ratio of WCAG 2.2 for graphics; ink takes the page's own text colour."""
    for color in COLORS:
        if color != INK:
            light, dark = sorted((_luminance(color), _luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 3


def test_what_is_not_finite_is_left_out():
    picture = chart(Series(label="a", points=[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)], std=[0.1, 0.1, 0.1, 0.2]))
    assert points_of(picture) == {"a": [(0, 1.0), (3, 2.0)]}


def test_error_bars():
    picture = chart(Series(label="a", points=[(1, 50.0), (5, 60.0)], std=[2.0, 0.5]))
    (container,) = axes_of(picture).containers
    (bars,) = container[2]
    assert [[tuple(point) for point in segment] for segment in bars.get_segments()] == [[(1, 48), (1, 52)], [(5, 59.5), (5, 60.5)]]
    assert axes_of(chart(Series(label="a", points=[(1, 50.0)], std=[0.0]))).containers == []


def test_somebody_elses_figures_are_rings_of_the_same_colour():
    ours, paper = Series(label="a", points=[(0, 1.0)], style=1), Series(label="p", points=[(0, 2.0)], style=1, line=0, hollow=True)
    lines = lines_of(chart(ours, paper))
    assert chart(ours, paper).caption == "Caption. Rings are the paper's results."
    assert (lines["a"].hollow, lines["p"].hollow) == (False, True)
    assert lines["a"].look[0] == lines["p"].look[0]
    assert lines["p"].look[1] == "None"


def test_words_are_no_formulas():
    assert plain("$x$ costs $5") == r"\$x\$ costs \$5"
    picture = chart(Series(label="$\\frac{1}{2}$", points=[(0, 1.0)]), Series(label="_hidden", points=[(0, 1.0)]))
    assert legend_of(picture) == [r"\$\frac{1}{2}\$", "\N{ZERO WIDTH SPACE}_hidden"]
    picture.figure.draw_without_rendering()


def test_long_labels_lose_their_middle():
    assert len(plain("a" * 200)) == 64
    assert re.fullmatch(r"first\.+…\.+last", plain("first" + "." * 200 + "last"))


def test_epochs_are_whole_numbers():
    ticks = ticks_of(chart(Series(label="a", points=[(0, 1.0), (2, 2.0)]), finish=whole_epochs))
    assert {"0", "1", "2"} <= set(ticks)
    assert all(float(tick.replace("\N{MINUS SIGN}", "-")).is_integer() for tick in ticks)


def test_a_readers_own_style_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9)
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")
    axes = axes_of(chart(Series(label="a", points=[(0, 1.0)])))
    assert axes.lines[0].get_linewidth() == 1.5
    assert to_rgb(axes.get_facecolor()) == (1.0, 1.0, 1.0)
    assert mpl.rcParams["lines.linewidth"] == 9
