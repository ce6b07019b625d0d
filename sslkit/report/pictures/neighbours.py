"""Nearest neighbours in feature space: which images a network takes to be alike."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sslkit.data.arrays import ArraySet
from sslkit.data.loader import Loader
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets
from sslkit.report.pictures.networks import Network, layer_in, shortlist
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.sample import ImageSample
from sslkit.training.features import extract_features

NUM_NEIGHBOURS = 6
MAX_NETWORKS = 3
MAX_SIDE = 128
_BATCH = 256


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


def draw_neighbours(networks: Sequence[Network], sample: ImageSample, best: str | None) -> Picture | None:
    """Draw the nearest images to a few queries, networks side by side.

    Args:
        networks: what to compare; at most three are drawn.
        sample: the images.
        best: the layer to take; None, or where a network lacks it: the middle one.

    Returns:
        None if there is nothing to be a neighbour.
    """
    num_others = len(sample.images) - sample.num_queries
    if not networks or not num_others:
        return None
    panels = [_panel(network, layer_in(network.backbone, best), sample) for network in shortlist(networks, MAX_NETWORKS)]
    frames = "" if sample.labels is None else " A blue frame: of the same class as the query; an orange frame and a cross: of another."
    classes = () if sample.labels is None else [sample.classes[label] for label in sample.labels[: sample.num_queries].tolist()]
    return Picture(
        key="neighbours",
        title="Nearest neighbours",
        caption=f"Each row: a held-out image and the {panels[0].num_columns} most similar of {num_others:,} others, by the cosine"
        f" between pooled features of one layer, the nearest first.{frames}",
        alt="Rows of images, each a query and its nearest neighbours in the features of several networks: "
        + "; ".join(f"{panel.title} ({panel.notes[0]}), {panel.notes[1]}" for panel in panels),
        figure=draw_sheets(Sheet([Panel(sample.queries, 1, labels=classes), *panels]), max_side=MAX_SIDE),
        raster=True,
    )


def _panel(network: Network, layer: str, sample: ImageSample) -> Panel:
    loader = Loader(ArraySet(sample.images, sample.image), batch_size=_BATCH, device=network.device)
    features = extract_features(network.backbone, loader, [layer], None)[layer]
    num = sample.num_queries
    indices = num + nearest(features[:num], features[num:], NUM_NEIGHBOURS)
    agrees, heading = None, layer
    if sample.labels is not None:
        agrees = (sample.labels[indices] == sample.labels[:num, None]).flatten()
        heading = f"{layer}, {int(agrees.sum())} of {len(agrees)} of the same class"
    return Panel(sample.images[indices.flatten()], indices.shape[1], network.role, (network.origin, heading), agrees=agrees)
