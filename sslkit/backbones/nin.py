"""The Network in Network in which RotNet was studied on 32 x 32 images, and its block, which classifiers on features have too."""

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.contract.errors import OptionError
from sslkit.contract.images import ImageSpec

DEPTHS = (3, 4, 5)
MAX_WIDTH = 1_000_000
"""Not far above it torch cannot count the bytes of a layer, even on the meta device."""


class NIN(Backbone):
    """Network in Network, Lin et al. 2014 (arXiv:1312.4400), as RotNet uses it, Gidaris et al. 2018 (arXiv:1803.07728).

    Layers ``conv1`` .. ``convN`` are maps, taken after each block's pooling. For 32 x 32 images: ``conv1`` (N, 96, 16, 16), all
    others (N, 192, 8, 8). Images of any size will do.

    Args:
        image: what the network is built for.
        num_blocks: 3, 4 or 5. RotNet has 4, the supervised network it is compared with has 3.
        width: factor on the number of channels of every unit.
        pool_after_conv3: average-pool after ``conv3`` too, which halves the size of ``conv3`` and everything deeper.

    Raises:
        OptionError: there is no such network.
    """

    def __init__(self, image: ImageSpec, *, num_blocks: int = 4, width: float = 1.0, pool_after_conv3: bool = False) -> None:
        super().__init__(image)
        if num_blocks not in DEPTHS:
            raise OptionError("num_blocks", "unknown depth", found=num_blocks, allowed=map(str, DEPTHS))
        if not 0 < width <= MAX_WIDTH:
            raise OptionError("width", "is out of range", found=width, allowed=f"0 < width <= {MAX_WIDTH:,}")
        w96, w160, w192 = (max(1, round(base * width)) for base in (96, 160, 192))
        deep = (w192, w192, w192)
        average_pool = partial(nn.AvgPool2d, 3, stride=2, padding=1)  # halves the size; the zeros around count, as in the reference code
        blocks = {
            "conv1": nin_block(image.num_chs, (w192, w160, w96), kernel_size=5).append(nn.MaxPool2d(3, stride=2, padding=1)),
            "conv2": nin_block(w96, deep, kernel_size=5).append(average_pool()),
        }
        blocks |= {f"conv{number}": nin_block(w192, deep) for number in range(3, num_blocks + 1)}
        if pool_after_conv3:
            blocks["conv3"].append(average_pool())
        self.blocks = nn.ModuleDict(blocks)
        reductions = {"conv1": 2, "conv2": 4}
        self.feature_info = tuple(
            FeatureInfo(name, w96 if name == "conv1" else w192, reductions.get(name, 8 if pool_after_conv3 else 4)) for name in blocks
        )
        self.apply(init_weights)

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Run block after block, up to the deepest layer asked for."""
        features: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            x = block(x)
            if name in layers:
                features[name] = x
            if len(features) == len(set(layers)):
                break
        return features


def nin_block(in_chs: int, widths: Sequence[int], kernel_size: int = 3) -> nn.Sequential:
    """A block of the Network in Network, Lin et al. 2014 (arXiv:1312.4400): one spatial unit, then 1x1 units, with ``widths`` channels."""
    units = []
    for out_chs in widths:
        conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=False)  # the size stays the same
        units.append(nn.Sequential(conv, nn.BatchNorm2d(out_chs), nn.ReLU(inplace=True)))
        in_chs, kernel_size = out_chs, 1
    return nn.Sequential(*units)


def init_weights(module: nn.Module) -> None:
    """Initialise one layer as RotNet does (arXiv:1803.07728); for ``Module.apply``. Layers of other kinds are left alone.

    Convolutions: N(0, sqrt(2 / (k * k * out_chs))). Linear layers: N(0, sqrt(2 / out_features)). BatchNorm: 1 and 0. Biases: 0.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=math.sqrt(2 / module.out_features))
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
