"""First-layer filters: the kernels that a network's first convolution lays over the image."""

from collections.abc import Sequence

from torch import Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets
from sslkit.report.pictures.networks import Network
from sslkit.report.pictures.picture import Picture

NUM_COLUMNS = 8
MAX_FILTERS = 64
MAX_SIDE = 64


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
    panels = [Panel(filters, NUM_COLUMNS, network.role, (network.origin,)) for network, filters in tiles]
    return Picture(
        key="filters",
        title="First-layer filters",
        caption=f"The {' and '.join(sizes)} kernels of the first convolution, at most {MAX_FILTERS}, in the order of their channels. Each is"
        f" scaled by its own largest weight, as BatchNorm makes the scale meaningless; mid-gray is zero. Smooth edges and colours are"
        f" learned, noise is what a filter began as.",
        alt=f"Grids of small squares side by side, one for each network: {', '.join(network.name for network, _ in tiles)}.",
        figure=draw_sheets(Sheet(panels), max_side=MAX_SIDE),
        raster=True,
    )
