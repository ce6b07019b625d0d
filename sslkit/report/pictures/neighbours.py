"""Nearest neighbours in feature space: which images a network takes to be alike."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sslkit.data.arrays import ArraySet
from sslkit.data.loader import Loader
from sslkit.report.pictures.best_layer import layer_in
from sslkit.report.pictures.canvas import BLUE, FAINT, LINE, MAX_WIDTH, ORANGE, SMALL, Canvas, elided, text_width, tile_side
from sslkit.report.pictures.gallery import Gallery
from sslkit.report.pictures.networks import LABEL_HEIGHT, Network, shortlist, write_label
from sslkit.report.pictures.picture import Picture
from sslkit.training.features import extract_features

NUM_NEIGHBOURS = 6
MAX_NETWORKS = 3
MAX_TILE = 128
MAX_NAME = 160
_BATCH = 256
_GAP, _MARGIN, _FRAME = 6, 28, 4
_MARK = 20
"""Pixels of the square in the corner of a neighbour of another class."""

_TOP = _MARGIN // 2 + LABEL_HEIGHT + round(LINE * SMALL) + _GAP


class Found(NamedTuple):
    """The neighbours of all queries in one network's features.

    Attributes:
        network: whose features.
        layer: which.
        indices: (Q, k) int64 into the gallery, the nearest first.
    """

    network: Network
    layer: str
    indices: Tensor


def nearest(queries: Tensor, others: Tensor, k: int) -> Tensor:
    """The most similar of the others by the cosine of the angle between features.

    Args:
        queries: (Q, D).
        others: (M, D).
        k: how many, at most M.

    Returns:
        (Q, min(k, M)) int64, the nearest first; of equals, the earlier.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(others, dim=1).T
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k]


def draw_neighbours(networks: Sequence[Network], gallery: Gallery, best: str | None) -> Picture | None:
    """Draw the nearest images to a few queries, networks side by side.

    Args:
        networks: what to compare; at most three are drawn.
        gallery: the images.
        best: the layer to take; None, or where a network lacks it: the middle one.

    Returns:
        None if there is nothing to be a neighbour.
    """
    num_others = len(gallery.images) - gallery.num_queries
    if not networks or not num_others:
        return None
    shown = shortlist(networks, MAX_NETWORKS)
    found = [_found(network, layer_in(network.backbone, best), gallery) for network in shown]
    labeled = gallery.labels is not None
    frames = " A blue frame: of the same class as the query; an orange frame and a cross: of another." if labeled else ""
    return Picture(
        key="neighbours",
        title="Nearest neighbours",
        caption=f"Each row: a held-out image and the {found[0].indices.shape[1]} most similar of {num_others:,} others, by the cosine"
        f" between pooled features of one layer, the nearest first.{frames}",
        alt="Rows of images, each a query and its nearest neighbours in the features of several networks: "
        + "; ".join(f"{one.network.name}, {_heading(one, gallery)}" for one in found),
        figure=_draw(found, gallery).figure(),
        raster=True,
    )


def _found(network: Network, layer: str, gallery: Gallery) -> Found:
    loader = Loader(ArraySet(gallery.images, gallery.image), batch_size=_BATCH, device=network.device)
    features = extract_features(network.backbone, loader, [layer], None)[layer]
    num = gallery.num_queries
    return Found(network, layer, num + nearest(features[:num], features[num:], NUM_NEIGHBOURS))


def _alike(found: Found, gallery: Gallery) -> Tensor | None:
    """Which neighbours are of their query's class: (Q, k) bool; None without labels."""
    labels = gallery.labels
    return None if labels is None else labels[found.indices] == labels[: gallery.num_queries, None]


def _heading(found: Found, gallery: Gallery) -> str:
    alike = _alike(found, gallery)
    return found.layer if alike is None else f"{found.layer}, {int(alike.sum())} of {alike.numel()} of the same class"


# --------------------------------------------------------------------------------------------------------------- drawing


def _draw(found: Sequence[Found], gallery: Gallery) -> Canvas:
    num_columns = 1 + sum(one.indices.shape[1] for one in found)
    classes = [gallery.class_of(row) for row in range(gallery.num_queries)]
    names = min(MAX_NAME, round(max(text_width(name, SMALL) for name in classes)))
    gaps = names + (num_columns - 1 - len(found)) * _GAP + (len(found) + (3 if names else 2)) * _MARGIN
    limit = min(MAX_TILE, (MAX_WIDTH - gaps) // num_columns - 2 * _FRAME)
    side = tile_side(max(gallery.images.shape[-2:]), limit, num_columns * gallery.num_queries)
    step = side + 2 * _FRAME + _GAP
    canvas = Canvas(gaps + num_columns * (step - _GAP), _TOP + gallery.num_queries * step - _GAP + _MARGIN)
    x = _MARGIN + names + (_MARGIN if names else 0)
    for row, query in enumerate(gallery.queries):
        y = _TOP + row * step
        if names:
            canvas.write(elided(classes[row], MAX_NAME, SMALL), _MARGIN + names, y + step / 2, align="right")
        canvas.paste(query, x + _FRAME, y + _FRAME, side)
    x += step
    for one in found:
        x += _MARGIN - _GAP
        _draw_network(canvas, one, gallery, x, side)
        x += one.indices.shape[1] * step
    return canvas


def _draw_network(canvas: Canvas, found: Found, gallery: Gallery, left: int, side: int) -> None:
    step, alike = side + 2 * _FRAME + _GAP, _alike(found, gallery)
    width = found.indices.shape[1] * step - _GAP
    write_label(canvas, found.network, left, _MARGIN // 2, width)
    canvas.write(elided(_heading(found, gallery), width, SMALL), left, _TOP - _GAP - LINE * SMALL / 2, color=FAINT)
    for row, neighbours in enumerate(found.indices.tolist()):
        for column, index in enumerate(neighbours):
            x, y = left + column * step, _TOP + row * step
            if alike is not None:
                canvas.fill(x, y, step - _GAP, step - _GAP, BLUE if alike[row, column] else ORANGE)
            canvas.paste(gallery.images[index], x + _FRAME, y + _FRAME, side)
            if alike is not None and not alike[row, column]:
                _draw_cross(canvas, x, y)


def _draw_cross(canvas: Canvas, x: int, y: int) -> None:
    """A mark beside the colour: some readers see none, and some paper."""
    canvas.fill(x, y, _MARK, _MARK, ORANGE)
    canvas.write("×", x + _MARK / 2, y + _MARK / 2, size=_MARK, color="#ffffff", align="center", bold=True)
