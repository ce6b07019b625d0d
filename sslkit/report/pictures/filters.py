"""First-layer filters: the kernels that a network's first convolution lays over the image."""

from collections.abc import Sequence

from torch import Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.report.pictures.canvas import MAX_WIDTH, Canvas, tile_side
from sslkit.report.pictures.networks import LABEL_HEIGHT, Network, write_label
from sslkit.report.pictures.picture import Picture

NUM_COLUMNS = 8
MAX_FILTERS = 64
MAX_TILE = 64
_GAP, _MARGIN = 6, 40


def first_kernels(backbone: Backbone) -> Tensor | None:
    """The weights of the first convolution: (F, C, h, w); None where it is 1x1, takes no image, or is none at all."""
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != backbone.image.num_chs or max(first.kernel_size) < 2:
        return None
    return first.weight.detach()


def filter_tiles(kernels: Tensor) -> Tensor:
    """Each filter by its own range: mid-gray is zero, its largest weight is black or white.

    Args:
        kernels: (F, C, h, w) of any sign; C is 1 or 3.

    Returns:
        (F, C, h, w) in [0, 1].
    """
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True)
    return 0.5 + kernels / (2 * largest.clamp_min(1e-12))  # a filter of zeros is gray


def draw_filters(networks: Sequence[Network]) -> Picture | None:
    """Draw the first filters of each network, in the order of their channels; None where no network has any."""
    kernels = [(network, first_kernels(network.backbone)) for network in networks]
    tiles = [(network, filter_tiles(found[:MAX_FILTERS]).float().cpu()) for network, found in kernels if found is not None]
    if not tiles:
        return None
    sizes = dict.fromkeys(f"{height} x {width}" for *_, height, width in (filters.shape for _, filters in tiles))
    return Picture(
        key="filters",
        title="First-layer filters",
        caption=f"The {' and '.join(sizes)} kernels of the first convolution, at most {MAX_FILTERS}, in the order of their channels. Each is"
        f" scaled by its own largest weight, as BatchNorm makes the scale meaningless; mid-gray is zero. Smooth edges and colours are"
        f" learned, noise is what a filter began as.",
        alt=f"Grids of small squares side by side, one for each network: {', '.join(network.name for network, _ in tiles)}.",
        figure=_draw(tiles).figure(),
        raster=True,
    )


def _draw(tiles: Sequence[tuple[Network, Tensor]]) -> Canvas:
    edge = max(max(filters.shape[-2:]) for _, filters in tiles)
    limit = (MAX_WIDTH - _MARGIN * (len(tiles) + 1)) // (len(tiles) * NUM_COLUMNS) - _GAP
    side = tile_side(edge, min(MAX_TILE, limit), len(tiles) * MAX_FILTERS)
    num_rows = max(-(-len(filters) // NUM_COLUMNS) for _, filters in tiles)
    step, top = side + _GAP, _MARGIN // 2 + LABEL_HEIGHT + _GAP
    grid = NUM_COLUMNS * step - _GAP
    canvas = Canvas(_MARGIN + (grid + _MARGIN) * len(tiles), top + num_rows * step + _MARGIN // 2)
    for place, (network, filters) in enumerate(tiles):
        left = _MARGIN + place * (grid + _MARGIN)
        write_label(canvas, network, left, _MARGIN // 2, grid)
        for index, tile in enumerate(filters):
            canvas.paste(tile, left + index % NUM_COLUMNS * step, top + index // NUM_COLUMNS * step, side)
    return canvas
