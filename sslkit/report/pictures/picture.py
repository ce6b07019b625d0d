"""A figure of a report, with the words around it."""

from functools import partial
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

drawing_style = partial(
    matplotlib.style.context,
    [
        "default",  # and not what a user's own matplotlibrc says
        {
            "font.size": 9.5,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "svg.fonttype": "none",
            "svg.hashsalt": "sslkit",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.5,
            "lines.markersize": 4.5,
            "legend.frameon": False,
            "legend.fontsize": 9,
        },
    ],
)
"""A context in which figures are built and rendered."""


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
