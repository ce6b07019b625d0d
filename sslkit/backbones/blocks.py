"""Building blocks of the Network in Network and of the classifiers on features: units, blocks, initialisation."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """For what an ``argmax`` or a comparison is taken of: logits in bfloat16 tie, and a tie is an answer by chance.

    Within it operations compute in the dtype of what they are given: give them float32.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)  # torch has no autocast for meta


def nin_block(in_chs: int, widths: Sequence[int], kernel_size: int = 3) -> nn.Sequential:
    """A block of the Network in Network, Lin et al. 2014 (arXiv:1312.4400): one spatial unit, then 1x1 units.

    Args:
        in_chs: channels of the input.
        widths: channels after each unit; the last is the output's.
        kernel_size: of the first unit.
    """
    chs = (in_chs, *widths)
    return nn.Sequential(*(_unit(chs[i], chs[i + 1], kernel_size if i == 0 else 1) for i in range(len(widths))))


def _unit(in_chs: int, out_chs: int, kernel_size: int) -> nn.Sequential:
    """Convolution, padded so that the size stays the same; BatchNorm; ReLU."""
    conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chs), nn.ReLU(inplace=True))


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
