"""The two kinds of backbone in miniature: a convolutional network of maps and a transformer of tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkit import Backbone, FeatureInfo, ImageSpec


class TinyConv(Backbone):
    """Two strided convolutions with BatchNorm; dropout, so that the global random state matters too."""

    def __init__(self, image: ImageSpec, *, width: int = 4, dropout: float = 0.1) -> None:
        super().__init__(image)
        self.feature_info = (FeatureInfo("stem", width, 2), FeatureInfo("body", 2 * width, 4))
        self.stem = nn.Sequential(_convolution(image.num_chs, width), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(_convolution(width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Dropout(dropout))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = {"stem": self.stem(x)}
        if "body" in layers:
            features["body"] = self.body(features["stem"])
        return {layer: features[layer] for layer in layers}


class TinyTokens(Backbone):
    """One pre-norm transformer block over patches. Positions are coordinates, so that images of any size will do."""

    capabilities = frozenset({"tokens", "masked_encode"})

    def __init__(self, image: ImageSpec, *, patch: int = 4, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__(image)
        self.feature_info = (FeatureInfo("patches", width, patch, "tokens"), FeatureInfo("block", width, patch, "tokens"))
        self.patches = nn.Conv2d(image.num_chs, width, patch, stride=patch)
        self.positions = nn.Linear(2, width, bias=False)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in ("query", "key", "value")})
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(dropout))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = {"patches": self._tokens(x)}
        if "block" in layers:
            features["block"] = self._block(features["patches"])
        return {layer: features[layer] for layer in layers}

    def masked_encode(self, images: Tensor, keep: Tensor) -> Tensor:
        tokens = self._tokens(self.prepare(images))
        return self._block(tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2])))

    def _tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, L, D), row-major."""
        grid = self.patches(x)
        rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in grid.shape[-2:])
        return grid.flatten(2).transpose(1, 2) + self.positions(torch.cartesian_prod(rows, columns))

    def _block(self, tokens: Tensor) -> Tensor:
        normed = self.norms[0](tokens)
        query, key, value = (self.attention[name](normed) for name in ("query", "key", "value"))
        tokens = tokens + F.scaled_dot_product_attention(query, key, value)
        return tokens + self.mlp(self.norms[1](tokens))


def _convolution(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False)
