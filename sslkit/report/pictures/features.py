"""What networks have learned, side by side: first-layer filters, attention maps, and nearest neighbours in feature space."""

from collections.abc import Sequence

import matplotlib as mpl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.data.arrays import ArraySet
from sslkit.data.loader import Loader
from sslkit.report.picture import Picture
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets, drawable
from sslkit.report.pictures.networks import Network, shortlist
from sslkit.report.pictures.sample import ImageSample, spread
from sslkit.training.features import extract_features

_MAX_FILTERS = 64


def draw_filters(networks: Sequence[Network]) -> Picture | None:
    """Draw the first filters of each network, in the order of their channels; None where no network has any."""
    kernels = [(network, first_kernels(network.backbone)) for network in networks]
    tiles = [(network, filter_tiles(found[:_MAX_FILTERS]).float().cpu()) for network, found in kernels if found is not None]
    if not tiles:
        return None
    sizes = dict.fromkeys(f"{height} x {width}" for *_, height, width in (filters.shape for _, filters in tiles))
    panels = [Panel(drawable(filters, 0), 8, network.role, (network.origin,)) for network, filters in tiles]
    more = {num for _, filters in tiles if (num := filters.shape[1]) not in (1, 3)}
    channels = f" Of {' and '.join(map(str, sorted(more)))} channels the first ones are drawn." if more else ""
    return Picture(
        title="First-layer filters",
        caption=f"The {' and '.join(sizes)} kernels of the first convolution, at most {_MAX_FILTERS}, in the order of their channels. Each is"
        f" scaled by its own largest weight, as BatchNorm makes the scale meaningless; mid-gray is zero. Smooth edges and colours are"
        f" learned, noise is what a filter began as.{channels}",
        alt=f"Grids of small squares side by side, one for each network: {', '.join(network.name for network, _ in tiles)}.",
        figure=draw_sheets(Sheet(panels), max_side=64),
        raster=True,
    )


def first_kernels(backbone: Backbone) -> Tensor | None:
    """The weights of the first convolution, (F, C, h, w); None where it is 1x1, takes no image, or does not exist."""
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != backbone.image.num_chs or max(first.kernel_size) < 2:
        return None
    return first.weight.detach()


def filter_tiles(kernels: Tensor) -> Tensor:
    """Scale (F, C, h, w) filters to [0, 1], each by its largest weight, which becomes black or white; mid-gray is zero."""
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True)
    return 0.5 + kernels / (2 * largest.clamp_min(1e-12))  # a filter of zeros is gray


def draw_attention(networks: Sequence[Network], sample: ImageSample | None) -> Picture | None:
    """Draw maps over a few images, networks side by side, each at several depths; None without images or any spatial layer."""
    if sample is None:
        return None
    images = sample.queries[:6]
    per_network = max(1, 13 // max(1, len(networks)))  # so many columns of maps are large enough to be read
    drawn = sample.drawn(images)
    panels, names = [Panel(drawn, 1)], list[str]()
    for network in networks:
        layers = spread([info for info in network.backbone.feature_info if info.kind != "vector"], per_network)
        if layers:
            with torch.no_grad():
                features = network.backbone(images.to(network.device), [info.name for info in layers])
            heats = [attention_map(_on_grid(features[info.name], info, images)).float().cpu() for info in layers]
            rows = [overlaid(image, heat) for image, *of_image in zip(drawn, *heats, strict=True) for heat in of_image]
            headings = [info.name for info in layers]
            panels.append(Panel(torch.stack(rows), len(layers), network.role, (network.origin,), headings=headings))
            names.append(network.name)
    if not names:
        return None
    return Picture(
        title="Attention maps",
        caption=f"Where the features of a layer are strong: the sum of their squares over all channels (Zagoruyko & Komodakis 2017), enlarged"
        f" over the image. Dark blue is the weakest and yellow the strongest position of each map by itself: maps compare positions, not"
        f" magnitudes. Layers from shallow to deep; {len(images)} held-out images, the same for all networks.",
        alt=f"A grid of {len(images)} images, each followed by heat maps of the networks {', '.join(names)}.",
        figure=draw_sheets(Sheet(panels)),
        raster=True,
    )


def attention_map(features: Tensor, power: float = 2) -> Tensor:
    """The sum over channels of ``|activation| ** power``, (N, C, h, w) -> (N, h, w). Zagoruyko & Komodakis 2017, arXiv:1612.03928."""
    return features.abs().pow(power).sum(dim=1)


def overlaid(image: Tensor, heat: Tensor) -> Tensor:
    """An attention map (h, w) in colour over its own range, with a (C, H, W) image in relief on it: (3, H, W) float in [0, 1]."""
    heat = F.interpolate(heat[None, None], size=image.shape[-2:], mode="bilinear")[0, 0]
    low, high = heat.aminmax()
    level = (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny)  # a constant map is all low
    color = torch.from_numpy(mpl.colormaps["viridis"](level.numpy())[..., :3]).float().permute(2, 0, 1)
    gray = image.float().mean(dim=0) / (255 if image.dtype == torch.uint8 else 1)
    return (color + 0.3 * (gray - 0.5)).clamp(0, 1)  # lighter where the image is


def _on_grid(features: Tensor, info: FeatureInfo, images: Tensor) -> Tensor:
    """Row-major tokens (N, L, D) -> (N, D, h, w); maps pass through."""
    if info.kind == "map":
        return features
    return features.transpose(1, 2).unflatten(2, (images.shape[-2] // info.reduction, -1))


def draw_neighbours(networks: Sequence[Network], sample: ImageSample | None, best: str | None) -> Picture | None:
    """Draw the nearest images to a few queries, at most three networks side by side; None where there is nothing to be a neighbour.

    Features are those of the best layer, or, where a network lacks it, of its middle one.
    """
    if not networks or sample is None or len(sample.images) == sample.num_queries:
        return None
    panels = [_neighbours_panel(network, best, sample) for network in shortlist(networks, 3)]
    frames = "" if sample.labels is None else " A blue frame: of the same class as the query; an orange frame and a cross: of another."
    classes = () if sample.labels is None else [sample.classes[label] for label in sample.labels[: sample.num_queries].tolist()]
    return Picture(
        title="Nearest neighbours",
        caption=f"Each row: a held-out image and the {panels[0].num_columns} most similar of {len(sample.images) - sample.num_queries:,} others, by the cosine"
        f" between pooled features of one layer, the nearest first.{frames}",
        alt="Rows of images, each a query and its nearest neighbours in the features of several networks: "
        + "; ".join(f"{panel.title} ({panel.notes[0]}), {panel.notes[1]}" for panel in panels),
        figure=draw_sheets(Sheet([Panel(sample.drawn(sample.queries), 1, labels=classes), *panels]), max_side=128),
        raster=True,
    )


def nearest(queries: Tensor, others: Tensor, k: int) -> Tensor:
    """The most similar of the others by cosine: (Q, D) and (M, D) -> (Q, min(k, M)) int64, the nearest first; of equals, the earlier."""
    similarity = F.normalize(queries, dim=1) @ F.normalize(others, dim=1).T
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k]


def _neighbours_panel(network: Network, best: str | None, sample: ImageSample) -> Panel:
    names, num = network.backbone.layer_names, sample.num_queries
    layer = best if best in names else names[len(names) // 2]
    window = None if sample.images.dtype == torch.uint8 else (0.0, 1.0)
    loader = Loader(ArraySet(sample.images, sample.image, window=window), batch_size=256, device=network.device)
    features = extract_features(network.backbone, loader, [layer], None)[layer]
    indices = num + nearest(features[:num], features[num:], 6)
    agrees, heading = None, layer
    if sample.labels is not None:
        agrees = (sample.labels[indices] == sample.labels[:num, None]).flatten()
        heading = f"{layer}, {int(agrees.sum())} of {len(agrees)} of the same class"
    return Panel(sample.drawn(sample.images[indices.flatten()]), indices.shape[1], network.role, (network.origin, heading), agrees=agrees)
