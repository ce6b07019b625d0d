import math
from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

import sslkit.evaluators.heads as module
from sslkit import FeatureInfo, ImageSpec
from sslkit.evaluators.heads import ConvHead, Head, HeadKind, LinearHead, MLPHead, build_head, feature_shapes
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv, TinyTokens

IMAGE = ImageSpec(8, 12, "rgb", (0.5,) * 3, (0.25,) * 3)
MAP = FeatureInfo("map", 6, 4, "map")
TOKENS = FeatureInfo("tokens", 6, 4, "tokens")
VECTOR = FeatureInfo("vector", 6, 1, "vector")
SHAPES = {"map": Size((6, 2, 3)), "tokens": Size((6, 6)), "vector": Size((6,))}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def num_parameters(head: nn.Module) -> int:
    return sum(parameter.numel() for parameter in head.parameters())


def build(kind: HeadKind, info: FeatureInfo, **options: Any) -> Head:
    with global_seed(1):
        return build_head(kind, info, SHAPES[info.kind], IMAGE, 5, **options).eval()


def naive_mlp(head: MLPHead, flat: Tensor) -> Tensor:
    """The published classifier in eval mode, where the statistics of a fresh BatchNorm are 0 and 1."""
    first, second, last = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    x = (flat @ first.weight.T / math.sqrt(1 + 1e-5)).clamp_min(0)
    x = (x @ second.weight.T / math.sqrt(1 + 1e-5)).clamp_min(0)
    return x @ last.weight.T + last.bias


# ----------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("kind", "info", "shape"),
    [
        ("linear", MAP, (6,)),
        ("linear", TOKENS, (6,)),
        ("linear", VECTOR, (6,)),
        ("mlp", MAP, (36,)),
        ("mlp", TOKENS, (6,)),
        ("mlp", VECTOR, (6,)),
        ("conv", MAP, (6, 2, 3)),
        ("conv", TOKENS, (6, 2, 3)),
    ],
)
def test_a_head_has_a_first_part_without_parameters_and_gives_a_logit_for_each_class(
    kind: HeadKind, info: FeatureInfo, shape: tuple[int, ...]
):
    head, features = build(kind, info), random(4, *SHAPES[info.kind])
    condensed = head.condense(features)
    assert condensed.shape == (4, *shape)
    assert not condensed.requires_grad
    assert head(features).shape == (4, 5)
    assert torch.equal(head.classify(condensed), head(features))


def test_feature_shapes_are_those_of_one_image():
    assert feature_shapes(TinyConv(IMAGE), ["body", "stem"], IMAGE) == {"body": Size((8, 2, 3)), "stem": Size((4, 4, 6))}
    assert feature_shapes(TinyTokens(IMAGE), ["block"], IMAGE) == {"block": Size((6, 8))}


def test_finding_shapes_changes_nothing():
    backbone = TinyConv(IMAGE)
    backbone.stem.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    feature_shapes(backbone, ["body"], IMAGE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert (backbone.training, backbone.stem.training, backbone.body.training) == (True, False, True)


# ----------------------------------------------------------------------------------------------------------------- linear


@pytest.mark.parametrize("info", [MAP, TOKENS, VECTOR], ids=lambda info: info.kind)
def test_the_linear_head_averages_positions(info: FeatureInfo):
    head = LinearHead(info, 5)
    features = random(4, *SHAPES[info.kind])
    pooled = {"map": lambda f: f.mean((2, 3)), "tokens": lambda f: f.mean(1), "vector": lambda f: f}[info.kind](features)
    assert torch.allclose(head(features), pooled @ head.linear.weight.T + head.linear.bias, atol=1e-6)
    assert num_parameters(head) == 6 * 5 + 5


# -------------------------------------------------------------------------------------------------------------------- mlp


@pytest.mark.parametrize("info", [MAP, TOKENS, VECTOR], ids=lambda info: info.kind)
def test_the_mlp_head_takes_maps_and_vectors_whole_and_tokens_averaged(info: FeatureInfo):
    head = MLPHead(info, SHAPES[info.kind], 5).eval()
    features = random(4, *SHAPES[info.kind])
    flat = features.mean(1) if info.kind == "tokens" else features.reshape(4, -1)
    assert torch.allclose(head(features), naive_mlp(head, flat), atol=1e-5)


@pytest.mark.parametrize(("num_classes", "hidden"), [(10, 200), (100, 2000), (103, 2048), (1000, 2048)])
def test_the_hidden_layers_of_the_mlp_head_are_as_wide_as_published(num_classes: int, hidden: int):
    with torch.device("meta"):
        head = MLPHead(VECTOR, SHAPES["vector"], num_classes)
    assert head.layers[0].out_features == head.layers[3].out_features == hidden
    expected = 6 * hidden + 2 * hidden + hidden * hidden + 2 * hidden + hidden * num_classes + num_classes
    assert num_parameters(head) == expected


def test_the_hidden_width_can_be_chosen():
    head = build("mlp", VECTOR, width=7)
    assert num_parameters(head) == 6 * 7 + 14 + 7 * 7 + 14 + 7 * 5 + 5


@pytest.mark.parametrize(
    ("shape", "in_features"),
    [
        ((96, 16, 16), 24_576),  # conv1 of the NIN: exactly the limit, used whole
        ((192, 8, 8), 12_288),
        ((96, 16, 17), 96 * 16 * 16),
        ((64, 56, 56), 64 * 19 * 19),  # 19² positions of 64 channels are the largest square below the limit
        ((64, 4, 200), 64 * 4 * 19),  # a side that is short already stays
        ((30_000, 2, 2), 30_000),  # never below one position
    ],
)
def test_the_mlp_head_pools_maps_above_its_limit_only(shape: tuple[int, int, int], in_features: int):
    with torch.device("meta"):
        head = MLPHead(FeatureInfo("map", shape[0], 1), Size(shape), 10, hidden=2)
        assert head(torch.zeros(2, *shape)).shape == (2, 10)
    assert head.layers[0].in_features == in_features


def test_a_pooled_map_is_averaged_over_neighbours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_FLAT_FEATURES", 6 * 2 * 2)
    head = MLPHead(MAP, Size((6, 4, 8)), 5).eval()
    features = random(3, 6, 4, 8)
    blocks = torch.stack([features[:, :, r : r + 2, c : c + 4].mean((2, 3)) for r in (0, 2) for c in (0, 4)], dim=2)  # (N, C, 4)
    assert torch.allclose(head(features), naive_mlp(head, blocks.reshape(3, 24)), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------------- conv


@pytest.mark.parametrize(("width", "chs"), [(None, 6), (4, 4)])
def test_the_conv_head_is_a_block_of_the_network_in_network(width: int | None, chs: int):
    head = build("conv", MAP, width=width)
    kernels = [tuple(layer.weight.shape) for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels == [(chs, 6, 3, 3), (chs, chs, 1, 1), (chs, chs, 1, 1)]
    assert all(layer.bias is None for layer in head.modules() if isinstance(layer, nn.Conv2d))
    assert num_parameters(head) == 9 * 6 * chs + 2 * chs * chs + 3 * 2 * chs + chs * 5 + 5


def test_on_conv2_the_conv_head_makes_the_supervised_network():
    """A block of 406,656 parameters and a linear layer: with conv1 and conv2 the 1,005,642 of the supervised 3-block network."""
    with torch.device("meta"):
        head = ConvHead(FeatureInfo("conv2", 192, 4), (8, 8), 10)
    assert num_parameters(head) == 406_656 + 192 * 10 + 10
    assert 61_376 + 535_680 + num_parameters(head) == 1_005_642


def test_the_conv_head_lays_tokens_out_row_by_row():
    on_map, on_tokens = build("conv", MAP), build("conv", TOKENS)
    features = random(4, 6, 2, 3)
    tokens = torch.empty(4, 6, 6)
    for row in range(2):
        for column in range(3):
            tokens[:, row * 3 + column] = features[:, :, row, column]
    assert torch.allclose(on_tokens(tokens), on_map(features), atol=1e-5)
    column_major = features.permute(0, 3, 2, 1).reshape(4, 6, 6)
    assert not torch.allclose(on_tokens(column_major), on_map(features), atol=1e-3)


# --------------------------------------------------------------------------------------------------------- initialisation


def test_weights_are_drawn_as_published():
    """Convolutions N(0, sqrt(2 / (k * k * out))), linear layers N(0, sqrt(2 / out)), BatchNorm 1 and 0, biases 0."""
    info = FeatureInfo("map", 64, 4)
    with global_seed(0):
        heads = [LinearHead(info, 400), MLPHead(info, Size((64, 2, 2)), 400, hidden=200), ConvHead(info, (2, 2), 400, width=80)]
    for layer in (layer for head in heads for layer in head.modules()):
        if isinstance(layer, nn.Conv2d):
            expected = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
        elif isinstance(layer, nn.Linear):
            expected = math.sqrt(2 / layer.out_features)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            continue
        else:
            continue
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert abs(layer.weight.mean().item()) < 0.05 * expected
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])
def test_a_seed_gives_one_head(kind: HeadKind):
    one, two = build(kind, MAP), build(kind, MAP)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with global_seed(2):
        other = build_head(kind, MAP, SHAPES["map"], IMAGE, 5)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


# --------------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize(
    ("kind", "info"), [("linear", MAP), ("linear", TOKENS), ("linear", VECTOR), ("mlp", MAP), ("mlp", TOKENS), ("conv", MAP)]
)
def test_a_head_computes_in_float32_under_autocast(kind: HeadKind, info: FeatureInfo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_FLAT_FEATURES", 7)  # the mlp head averages positions too
    head = build(kind, info)
    features = random(64, *SHAPES[info.kind]).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head(features.float()), rtol=1e-5, atol=1e-5)
