"""The classifiers that are put on features: linear, multi-layer perceptron, convolutional."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sslkit.backbones.nin import init_weights, nin_block
from sslkit.contract.backbone import Backbone, FeatureInfo, LayerKind, pool
from sslkit.contract.images import ImageSpec
from sslkit.contract.runtime import without_autocast
from sslkit.training.features import evaluating

HeadKind = Literal["linear", "mlp", "conv"]

MAX_FLAT_FEATURES = 24_576
"""Above this the mlp head averages neighbouring positions first; conv1 of the NIN (96 x 16 x 16) is the largest used whole."""


class Head(nn.Module, ABC):
    """A classifier on the features of one layer, in two parts. Where features are kept, it is the first part's output, which may be far smaller.

    It computes in float32, even under autocast: logits in bfloat16 tie, and a tie is decided by chance.
    """

    @abstractmethod
    def condense(self, features: Tensor) -> Tensor:
        """The part without parameters: features shaped by their kind -> (N, ...), all that ``classify`` needs of them."""

    @abstractmethod
    def logits(self, condensed: Tensor) -> Tensor:
        """The part that is trained: what ``condense`` gave, in float32 -> (N, num_classes) logits."""

    @final
    def classify(self, condensed: Tensor) -> Tensor:
        """What ``condense`` gave -> (N, num_classes) float32 logits."""
        with without_autocast(condensed.device):
            return self.logits(condensed.float())

    @final
    def forward(self, features: Tensor) -> Tensor:
        """Features shaped by their kind -> (N, num_classes) logits."""
        return self.classify(self.condense(features))


class LinearHead(Head):
    """Global average pooling, then one linear layer."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__()
        self._kind: LayerKind = info.kind
        self.linear = nn.Linear(info.num_chs, num_classes)
        self.apply(init_weights)

    @override
    def condense(self, features: Tensor) -> Tensor:
        """(N, num_chs), averaged over positions."""
        return pool(features, self._kind)

    @override
    def logits(self, condensed: Tensor) -> Tensor:
        return self.linear(condensed)


class MLPHead(Head):
    """RotNet's non-linear classifier: flatten, two hidden layers with BatchNorm and ReLU, a linear layer (arXiv:1803.07728, sec. 3.1).

    ``shape`` is that of one image's features; ``hidden`` is ``min(20 * num_classes, 2048)`` by default.
    """

    def __init__(self, info: FeatureInfo, shape: Size, num_classes: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = min(20 * num_classes, 2048) if hidden is None else hidden
        self._kind: LayerKind = info.kind
        self._grid: tuple[int, int] | None = None  # to pool a map to before it is flattened; None where it is small enough
        if info.kind == "map" and math.prod(shape) > MAX_FLAT_FEATURES:
            side = max(1, math.isqrt(MAX_FLAT_FEATURES // info.num_chs))
            self._grid = min(side, shape[1]), min(side, shape[2])
        positions = 1 if self._kind != "map" else math.prod(self._grid or shape[1:])
        self.layers = nn.Sequential(
            nn.Linear(info.num_chs * positions, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )
        self.apply(init_weights)

    @override
    def condense(self, features: Tensor) -> Tensor:
        """(N, D), a map flattened and tokens averaged."""
        if self._kind != "map":
            return pool(features, self._kind)
        if self._grid is not None:
            features = F.adaptive_avg_pool2d(features.float(), self._grid)
        return features.flatten(1)

    @override
    def logits(self, condensed: Tensor) -> Tensor:
        return self.layers(condensed)


class ConvHead(Head):
    """RotNet's convolutional classifier: one block of the Network in Network, global average pooling, a linear layer.

    Tokens are first arranged in their grid of rows and columns. ``width``, the block's channels, is by default that of the layer.
    """

    def __init__(self, info: FeatureInfo, grid: tuple[int, int], num_classes: int, width: int | None = None) -> None:
        super().__init__()
        width = info.num_chs if width is None else width
        self._kind: LayerKind = info.kind
        self._grid = grid
        self.block = nin_block(info.num_chs, (width, width, width))
        self.linear = nn.Linear(width, num_classes)
        self.apply(init_weights)

    @override
    def condense(self, features: Tensor) -> Tensor:
        """(N, num_chs, h, w)."""
        if self._kind == "tokens":
            return features.transpose(1, 2).unflatten(2, self._grid)  # (N, L, D) row-major -> (N, D, h, w)
        return features

    @override
    def logits(self, condensed: Tensor) -> Tensor:
        return self.linear(self.block(condensed).mean(dim=(-2, -1)))


def build_head(kind: HeadKind, info: FeatureInfo, shape: Size, image: ImageSpec, num_classes: int, *, width: int | None = None) -> Head:
    """A head for features of this ``shape``, that of one image's, initialised from torch's global generator. ``width`` is that of mlp and
    conv heads; None: the paper's.
    """
    if kind == "linear":
        return LinearHead(info, num_classes)
    if kind == "mlp":
        return MLPHead(info, shape, num_classes, width)
    return ConvHead(info, (image.height // info.reduction, image.width // info.reduction), num_classes, width)


def feature_shapes(backbone: Backbone, layers: Sequence[str], image: ImageSpec) -> dict[str, Size]:
    """The shape of one image's features at each layer, found by one forward pass."""
    blank = torch.zeros(1, image.num_chs, image.height, image.width, dtype=torch.uint8, device=backbone.mean.device)
    with torch.no_grad(), evaluating(backbone):
        return {layer: features.shape[1:] for layer, features in backbone(blank, layers).items()}
