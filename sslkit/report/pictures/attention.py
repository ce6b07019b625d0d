"""Attention maps: where a network's features are strong. Zagoruyko & Komodakis 2017, arXiv:1612.03928."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.report.pictures.canvas import LINE, MAX_WIDTH, SMALL, Canvas, elided, tile_side, viridis
from sslkit.report.pictures.gallery import Gallery
from sslkit.report.pictures.networks import LABEL_HEIGHT, Network, write_label
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.spread import spread

POWER = 2
NUM_IMAGES = 6
MAX_MAPS = 13
"""Columns of maps that stay large enough to be read."""

MAX_TILE = 160
_GAP, _MARGIN = 6, 20
_TOP = _MARGIN // 2 + LABEL_HEIGHT + round(LINE * SMALL) + _GAP
_RELIEF = 0.3
"""How much lighter a white place of the image makes the colour of the map than a black one does."""


def attention_map(features: Tensor, power: float = POWER) -> Tensor:
    """The sum over channels of ``|activation| ** power``.

    Args:
        features: (N, C, h, w).
        power: the larger, the more the strongest channel counts.

    Returns:
        (N, h, w), 0 or more.
    """
    return features.abs().pow(power).sum(dim=1)


def draw_attention(networks: Sequence[Network], gallery: Gallery) -> Picture | None:
    """Draw maps over a few images, networks side by side, each at several depths; None where no network has a spatial layer."""
    images = gallery.queries[:NUM_IMAGES]
    per_network = max(1, MAX_MAPS // max(1, len(networks)))
    maps = [(network, _maps(network, images, per_network)) for network in networks]
    maps = [(network, of_layers) for network, of_layers in maps if of_layers]
    if not maps:
        return None
    return Picture(
        key="attention",
        title="Attention maps",
        caption=f"Where the features of a layer are strong: the sum of their squares over all channels (Zagoruyko & Komodakis 2017), enlarged"
        f" over the image. Dark blue is the weakest and yellow the strongest place of each map by itself, so maps tell of places, not of"
        f" magnitudes. Layers from shallow to deep; {len(images)} held-out images, the same for all networks.",
        alt=f"A grid of {len(images)} images, each followed by heat maps of the networks {', '.join(network.name for network, _ in maps)}.",
        figure=_draw(images, maps).figure(),
        raster=True,
    )


def overlaid(image: Tensor, heat: Tensor) -> Tensor:
    """An attention map in colour, with the image in relief on it.

    Args:
        image: (C, H, W) uint8.
        heat: (h, w), stretched to its own range.

    Returns:
        (3, H, W) float in [0, 1].
    """
    heat = F.interpolate(heat[None, None], size=image.shape[-2:], mode="bilinear")[0, 0]
    low, high = heat.aminmax()
    level = (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny)  # a constant map is all low
    color = viridis()[(level * 255).round().long()].permute(2, 0, 1)
    gray = image.float().mean(dim=0) / 255
    return (color + _RELIEF * (gray - 0.5)).clamp(0, 1)


def spatial_layers(backbone: Backbone) -> list[FeatureInfo]:
    """The layers whose features lie on a grid, shallow to deep."""
    return [info for info in backbone.feature_info if info.kind != "vector"]


def _maps(network: Network, images: Tensor, num_layers: int) -> dict[str, Tensor]:
    """``{layer: (N, h, w)}`` on the CPU, of layers at different depths."""
    layers = spread(spatial_layers(network.backbone), num_layers)
    if not layers:
        return {}
    with torch.no_grad():
        features = network.backbone(images.to(network.device), [info.name for info in layers])
    return {info.name: attention_map(_on_grid(features[info.name], info, images)).float().cpu() for info in layers}


def _on_grid(features: Tensor, info: FeatureInfo, images: Tensor) -> Tensor:
    """Row-major tokens (N, L, D) -> (N, D, h, w); maps pass through."""
    if info.kind == "map":
        return features
    return features.transpose(1, 2).unflatten(2, (images.shape[-2] // info.reduction, -1))


def _draw(images: Tensor, maps: Sequence[tuple[Network, dict[str, Tensor]]]) -> Canvas:
    num_columns = 1 + sum(len(of_layers) for _, of_layers in maps)
    gaps = _GAP * num_columns + _MARGIN * (len(maps) + 2) - _GAP
    side = tile_side(max(images.shape[-2:]), min(MAX_TILE, (MAX_WIDTH - gaps) // num_columns), num_columns * len(images))
    canvas = Canvas(gaps + side * num_columns, _TOP + (side + _GAP) * len(images) - _GAP + _MARGIN)
    for row, image in enumerate(images):
        canvas.paste(image, _MARGIN, _TOP + row * (side + _GAP), side)
    x = _MARGIN + side + _GAP
    for network, of_layers in maps:
        x += _MARGIN
        write_label(canvas, network, x, _MARGIN // 2, len(of_layers) * (side + _GAP) - _GAP)
        for layer, heats in of_layers.items():
            canvas.write(elided(layer, side, SMALL), x + side / 2, _TOP - _GAP - LINE * SMALL / 2, align="center")
            for row, (image, heat) in enumerate(zip(images, heats, strict=True)):
                canvas.paste(overlaid(image, heat), x, _TOP + row * (side + _GAP), side)
            x += side + _GAP
    return canvas
