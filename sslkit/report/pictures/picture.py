"""A figure of a report, with the words around it."""

from typing import NamedTuple

from matplotlib.figure import Figure


class Picture(NamedTuple):
    """One figure.

    Attributes:
        key: unique in a report; names files and anchors.
        title: what it shows, in a few words.
        caption: how to read it, in a sentence or two.
        alt: what a reader who cannot see it should know.
        figure: the drawing. A chart is embedded as SVG, and its text takes the page's colour; a picture made of pixels as PNG.
        raster: whether it is made of pixels.
    """

    key: str
    title: str
    caption: str
    alt: str
    figure: Figure
    raster: bool = False
