"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from functools import partial

import pytest
import torch
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


class WrongChannels(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 9, 4))


class WrongReduction(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 8))


class WrongKind(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4, "tokens"))
    capabilities = frozenset({"map", "tokens"})


class UntoldKind(WrongKind):
    capabilities = frozenset({"map"})


class UnknownKind(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4, "graph"))  # pyright: ignore[reportArgumentType]


class SameNames(TinyBackbone):
    feature_info = (FeatureInfo("deep", 4, 2), FeatureInfo("deep", 8, 4))


GENERATOR = torch.Generator()


class NoLayers(TinyBackbone):
    feature_info = ()


class TooMany(TinyBackbone):
    def extract(self, x, layers):
        return super().extract(x, ["shallow", "deep"])


class TooDeep(TinyBackbone):
    def extract(self, x, layers):
        return {layer: features for layer, features in super().extract(x, ["shallow", "deep"]).items() if layer in layers}


class DropsInEval(TinyBackbone):
    def extract(self, x, layers):
        return {layer: F.dropout(features) for layer, features in super().extract(x, layers).items()}


class NotFinite(TinyBackbone):
    def extract(self, x, layers):
        return {layer: features / 0 - features / 0 for layer, features in super().extract(x, layers).items()}


class NormalisesTheBatch(TinyBackbone):
    def extract(self, x, layers):
        return super().extract(x - x.mean(dim=0), layers)


class SeedsItself(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer(
            "pattern", torch.rand(3, generator=GENERATOR) if self.shallow[0].weight.device.type == "cpu" else torch.empty(3)
        )


class Overwrites(TinyBackbone):
    def extract(self, x, layers):
        features = super().extract(x, layers)
        return {"shallow": features["shallow"].zero_(), **features} if len(layers) > 1 else features


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
    def extract(self, x, layers):
        return {layer: features[..., :8, :8] for layer, features in super().extract(x, layers).items()}

    feature_info = (FeatureInfo("shallow", 4, 4), FeatureInfo("deep", 8, 4))


class WrongMasks(TinyBackbone):
    capabilities = frozenset({"map", "masked_encode"})

    def masked_encode(self, images, keep):
        return torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("build", "promise"),
    [
        (WrongChannels, "layer 'deep' has num_chs 9, reduction 4 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)"),
        (WrongReduction, "layer 'deep' has num_chs 8, reduction 8 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)"),
        (
            WrongKind,
            "layer 'deep' has num_chs 8, reduction 4 and the kind 'tokens', but images of (32, 32) give the shape (2, 8, 8, 8)"
            " instead of (2, 64, 8)",
        ),
        (UntoldKind, "layer 'deep' is of the kind 'tokens': capabilities must hold it"),
        (UnknownKind, "layer 'deep' is of the kind 'graph', not one of map, tokens, vector"),
        (SameNames, "feature_info must give each layer a name of its own, and has deep, deep"),
        (NoLayers, "feature_info must be a tuple of one FeatureInfo or more"),
        (TooMany, "extract must return exactly the layers asked for, ('shallow',), and returned ('shallow', 'deep')"),
        (TooDeep, "extract must stop at the deepest layer asked for: for 'shallow' it also ran deep.0, deep.1"),
        (DropsInEval, "eval mode must be deterministic: two passes differ at 'shallow'"),
        (NotFinite, "the features of layer 'shallow' must be finite"),
        (
            NormalisesTheBatch,
            "in eval mode the features of an image must not depend on the rest of the batch: those of layer 'shallow' do",
        ),
        (SeedsItself, "the seed must decide the weights: draw them from torch's global generator alone; pattern differ"),
        (Overwrites, "layer 'shallow' must not depend on what else is asked for: does a later layer write into it?"),
        (CountsInEval, "extract must not change buffers in eval mode; calls differ"),
        (DataOnMeta, "on the meta device no tensor may hold data, and table does"),
        (HiddenWeights, "the state dict must hold all of the backbone: another one with the same state gives other features at 'deep'"),
        (PositionalOption, "the option width must be keyword-only: put * before it in the constructor"),
        (BareOption, "the option width must have an annotation in the constructor"),
        (OtherImage, "image must be what it is built for: call super().__init__(image)"),
        (OtherSizes, "layer 'shallow' has num_chs 4, reduction 4 and the kind 'map', but images of (64, 64) give the shape (2, 4, 8, 8)"),
        (WrongMasks, "masked_encode must return (N, L_keep, D) tokens, and returned (2, 3, 8)"),
    ],
)
def test_a_broken_backbone_is_named(build, promise):
    assert broken_promise(check_backbone, build) == f"{build.__name__}: {promise}"


def test_a_backbone_that_reads_values_while_it_is_built_is_found():
    promise = "ReadsValues: must be built on the meta device, without reading a tensor's values ("
    assert broken_promise(check_backbone, ReadsValues).startswith(promise)
