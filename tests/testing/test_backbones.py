"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sslkit import NIN, FeatureInfo, ImageSpec, TimmBackbone
from sslkit.testing import IMAGE, TinyBackbone, check_backbone
from tests.testing.broken import broken_promise

GRAY = ImageSpec(16, 24, "gray", (0.5,), (0.25,))


@pytest.mark.parametrize(
    ("build", "image"),
    [
        (TinyBackbone, GRAY),
        (partial(NIN, width=0.05), IMAGE),
        (partial(NIN, num_blocks=5, width=0.05, pool_after_conv3=True), GRAY),
        (partial(TimmBackbone, model="resnet18"), IMAGE),
        (partial(TimmBackbone, model="vit_tiny_patch16_224"), IMAGE),  # tokens, a vector, masked_encode
    ],
    ids=["tiny", "nin", "deep nin", "resnet18", "vit"],
)
def test_backbones_keep_their_promises(build, image):
    check_backbone(build, image=image)


def test_the_documented_layers_are_the_tiny_backbones():
    assert TinyBackbone(IMAGE).layer_names == ("shallow", "deep")


SHALLOW, DEEP = FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4)
MAP_AND_TOKENS = frozenset({"map", "tokens"})
GENERATOR = torch.Generator()


def having(**attributes: object) -> type[TinyBackbone]:
    """Has other attributes or methods."""
    return type("Changed", (TinyBackbone,), attributes)


def features(change: Callable[[str, Tensor], Tensor]) -> type[TinyBackbone]:
    """Changes the features of a layer."""
    extract = TinyBackbone.extract
    return having(extract=lambda self, x, layers: {layer: change(layer, found) for layer, found in extract(self, x, layers).items()})


def everything(self: TinyBackbone, x: Tensor, _layers: object) -> dict[str, Tensor]:
    return TinyBackbone.extract(self, x, ["shallow", "deep"])


def too_deep(self: TinyBackbone, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    return {layer: found for layer, found in everything(self, x, layers).items() if layer in layers}


def overwritten(self: TinyBackbone, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    found = TinyBackbone.extract(self, x, layers)
    return {"shallow": found["shallow"].zero_(), **found} if len(layers) > 1 else found


class SeedsItself(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer(
            "pattern", torch.rand(3, generator=GENERATOR) if self.shallow[0].weight.device.type == "cpu" else torch.empty(3)
        )


class CountsInEval(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer("calls", torch.zeros(()))

    def extract(self, x, layers):
        self.calls += 1
        return super().extract(x, layers)


class ReadsValues(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.scale = float(self.deep[0].weight.detach().std())


class DataOnMeta(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer("table", torch.zeros(3, device="cpu"))


class HiddenWeights(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.projection = torch.randn(8, 1, 1)

    def extract(self, x, layers):
        return {layer: f * self.projection if layer == "deep" else f for layer, f in super().extract(x, layers).items()}


class PositionalOption(TinyBackbone):
    def __init__(self, image: ImageSpec, width: int = 3) -> None:
        super().__init__(image)


class BareOption(TinyBackbone):
    def __init__(self, image: ImageSpec, *, width=3) -> None:
        super().__init__(image)


class OtherImage(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image._replace(mean=(0.0, 0.0, 0.0)))


class OtherSizes(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 4), DEEP)

    def extract(self, x, layers):
        return {layer: found[..., :8, :8] for layer, found in super().extract(x, layers).items()}


@pytest.mark.parametrize(
    ("build", "promise"),
    [
        (
            having(feature_info=(SHALLOW, FeatureInfo("deep", 9, 4))),
            "layer 'deep' has num_chs 9, reduction 4 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)",
        ),
        (
            having(feature_info=(SHALLOW, FeatureInfo("deep", 8, 8))),
            "layer 'deep' has num_chs 8, reduction 8 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)",
        ),
        (
            having(feature_info=(SHALLOW, DEEP._replace(kind="tokens")), capabilities=MAP_AND_TOKENS),
            "layer 'deep' has num_chs 8, reduction 4 and the kind 'tokens', but images of (32, 32) give the shape (2, 8, 8, 8)"
            " instead of (2, 64, 8)",
        ),
        (having(feature_info=(SHALLOW, DEEP._replace(kind="tokens"))), "layer 'deep' is of the kind 'tokens': capabilities must hold it"),
        (
            having(feature_info=(SHALLOW, DEEP._replace(kind="graph"))),
            "layer 'deep' is of the kind 'graph', not one of map, tokens, vector",
        ),
        (
            having(feature_info=(SHALLOW._replace(name="deep"), DEEP)),
            "feature_info must give each layer a name of its own, and has deep, deep",
        ),
        (having(width=4), "width must be the deepest layer's num_chs: call what it means otherwise something else"),
        (having(feature_info=()), "feature_info must be a tuple of one FeatureInfo or more"),
        (having(extract=everything), "extract must return exactly the layers asked for, ('shallow',), and returned ('shallow', 'deep')"),
        (having(extract=too_deep), "extract must stop at the deepest layer asked for: for 'shallow' it also ran deep.0, deep.1"),
        (features(lambda _, found: F.dropout(found)), "eval mode must be deterministic: two passes differ at 'shallow'"),
        (features(lambda _, found: found / 0 - found / 0), "the features of layer 'shallow' must be finite"),
        (
            having(extract=lambda self, x, layers: TinyBackbone.extract(self, x - x.mean(dim=0), layers)),
            "in eval mode the features of an image must not depend on the rest of the batch: those of layer 'shallow' do",
        ),
        (SeedsItself, "the seed must decide the weights: draw them from torch's global generator alone; pattern differ"),
        (having(extract=overwritten), "layer 'shallow' must not depend on what else is asked for: does a later layer write into it?"),
        (CountsInEval, "extract must not change buffers in eval mode; calls differ"),
        (DataOnMeta, "on the meta device no tensor may hold data, and table does"),
        (HiddenWeights, "the state dict must hold all of the backbone: another one with the same state gives other features at 'deep'"),
        (PositionalOption, "the option width must be keyword-only: put * before it in the constructor"),
        (BareOption, "the option width must have an annotation in the constructor"),
        (OtherImage, "image must be what it is built for: call super().__init__(image)"),
        (OtherSizes, "layer 'shallow' has num_chs 4, reduction 4 and the kind 'map', but images of (64, 64) give the shape (2, 4, 8, 8)"),
        (
            having(capabilities=frozenset({"map", "masked_encode"}), masked_encode=lambda *_: torch.zeros(2, 3, 8)),
            "masked_encode must return (N, L_keep, D) tokens, and returned (2, 3, 8)",
        ),
    ],
)
def test_a_broken_backbone_is_named(build, promise):
    assert broken_promise(check_backbone, build) == f"{build.__name__}: {promise}"


def test_a_backbone_that_reads_values_while_it_is_built_is_found():
    promise = "ReadsValues: must be built on the meta device, without reading a tensor's values ("
    assert broken_promise(check_backbone, ReadsValues).startswith(promise)
