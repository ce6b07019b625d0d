import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from sslkit.report.charts.chart import Series, draw_chart
from sslkit.report.page.embedded import inline_svg


def figure_of(label: str = "a") -> Figure:
    series = [
        Series(label=label, points=[(0, 1.0), (1, 0.5)], std=[0.1, 0.1]),
        Series(label="b", points=[(0, 2.0)], style=4, hollow=True),
    ]
    return draw_chart("key", "Title", "Caption.", series, x="epoch", y="loss").figure


def svg_of(label: str = "a", prefix: str = "p1") -> str:
    return str(inline_svg(figure_of(label), prefix=prefix, alt="A <chart> of 'this'"))


def test_text_stays_text():
    texts = [element.text for element in ElementTree.fromstring(svg_of()).iter("text")]
    assert {"epoch", "loss", "a", "b"} <= set(texts)


def test_ink_takes_the_pages_colour_and_the_ground_is_the_pages():
    svg = svg_of()
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert ElementTree.fromstring(svg).attrib["fill"] == "currentColor"


def test_a_reader_who_cannot_see_it_is_told():
    root = ElementTree.fromstring(svg_of())
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "A <chart> of 'this'")


def test_ids_are_unique_in_a_page():
    """Two charts in one page must not take each other's markers and clipping."""
    first, second = svg_of(prefix="p1"), svg_of(prefix="p2")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert all(len(own) == len(set(own)) for own in ids)
    assert not set(ids[0]) & set(ids[1])
    references = re.findall(r'href="#([^"]+)"', first) + re.findall(r"url\(#([^)]+)\)", first)
    assert set(references) == set(ids[0])


def test_nothing_points_outside():
    svg = svg_of()
    assert "http" not in svg
    assert "xlink" not in svg
    assert "<metadata" not in svg


def test_the_same_chart_gives_the_same_bytes():
    assert svg_of() == svg_of()


def test_words_are_never_markup():
    evil = "<script>alert('x')</script>&\""
    svg = svg_of(evil)
    assert "<script" not in svg
    assert evil in [element.text for element in ElementTree.fromstring(svg).iter("text")]
