"""Attention maps: where a network's features are strong. Zagoruyko & Komodakis 2017, arXiv:1612.03928."""

from collections.abc import Sequence

import matplotlib as mpl
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.contract.backbone import FeatureInfo
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets
from sslkit.report.pictures.networks import Network
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.sample import ImageSample, spread

POWER = 2
NUM_IMAGES = 6
MAX_MAPS = 13
"""Columns of maps that stay large enough to be read."""

_RELIEF = 0.3
"""How much lighter a white pixel of the image makes the colour of the map than a black one does."""


def attention_map(features: Tensor, power: float = POWER) -> Tensor:
    """The sum over channels of ``|activation| ** power``.

    Args:
        features: (N, C, h, w).
        power: the larger, the more the strongest channel counts.

    Returns:
        (N, h, w), 0 or more.
    """
    return features.abs().pow(power).sum(dim=1)


def draw_attention(networks: Sequence[Network], sample: ImageSample) -> Picture | None:
    """Draw maps over a few images, networks side by side, each at several depths; None where no network has a spatial layer."""
    images = sample.queries[:NUM_IMAGES]
    per_network = max(1, MAX_MAPS // max(1, len(networks)))
    maps = [(network, _maps(network, images, per_network)) for network in networks]
    maps = [(network, of_layers) for network, of_layers in maps if of_layers]
    if not maps:
        return None
    panels = [Panel(images, 1)]
    for network, of_layers in maps:
        rows = [overlaid(image, heat) for image, *heats in zip(images, *of_layers.values(), strict=True) for heat in heats]
        panels.append(Panel(torch.stack(rows), len(of_layers), network.role, (network.origin,), headings=tuple(of_layers)))
    return Picture(
        key="attention",
        title="Attention maps",
        caption=f"Where the features of a layer are strong: the sum of their squares over all channels (Zagoruyko & Komodakis 2017), enlarged"
        f" over the image. Dark blue is the weakest and yellow the strongest position of each map by itself: maps compare positions, not"
        f" magnitudes. Layers from shallow to deep; {len(images)} held-out images, the same for all networks.",
        alt=f"A grid of {len(images)} images, each followed by heat maps of the networks {', '.join(network.name for network, _ in maps)}.",
        figure=draw_sheets(Sheet(panels)),
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
    color = torch.from_numpy(mpl.colormaps["viridis"](level.numpy())[..., :3]).float().permute(2, 0, 1)
    gray = image.float().mean(dim=0) / 255
    return (color + _RELIEF * (gray - 0.5)).clamp(0, 1)


def _maps(network: Network, images: Tensor, num_layers: int) -> dict[str, Tensor]:
    """``{layer: (N, h, w)}`` on the CPU, of layers at different depths whose features lie on a grid."""
    layers = spread([info for info in network.backbone.feature_info if info.kind != "vector"], num_layers)
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
