import math
import re

import pytest
import torch
from torch import nn

from sslkit.backbones.nin import NIN, init_weights, nin_block
from sslkit.contract.backbone import FeatureInfo
from sslkit.contract.errors import BackboneError, OptionError
from sslkit.contract.images import ImageSpec

CIFAR = ImageSpec(32, 32, "rgb", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
GRAY = ImageSpec(28, 28, "gray", (0.13,), (0.31,))


def on_meta(image: ImageSpec = CIFAR, **options) -> NIN:
    with torch.device("meta"):
        return NIN(image, **options)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_rotnet_with_four_blocks_and_its_head_has_the_papers_size():
    assert num_parameters(on_meta()) + num_parameters(nn.Linear(192, 4)) == 1_411_140


def test_supervised_network_with_three_blocks_has_the_papers_size():
    assert num_parameters(on_meta(num_blocks=3)) + num_parameters(nn.Linear(192, 10)) == 1_005_642


def test_parameters_of_each_block():
    blocks = on_meta(num_blocks=5).blocks
    assert {name: num_parameters(block) for name, block in blocks.items()} == {
        "conv1": 61_376,
        "conv2": 535_680,
        "conv3": 406_656,
        "conv4": 406_656,
        "conv5": 406_656,
    }


@pytest.mark.parametrize("num_blocks", [3, 4, 5])
def test_shapes_of_each_layer_are_those_of_the_table_and_of_feature_info(num_blocks):
    network = on_meta(num_blocks=num_blocks)
    features = network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device="meta"), network.layer_names)
    deep = [f"conv{number}" for number in range(2, num_blocks + 1)]
    assert {name: tuple(x.shape) for name, x in features.items()} == {"conv1": (2, 96, 16, 16), **dict.fromkeys(deep, (2, 192, 8, 8))}
    assert network.feature_info == (FeatureInfo("conv1", 96, 2), *(FeatureInfo(name, 192, 4) for name in deep))
    assert network.capabilities == {"map"}


def test_another_pool_after_conv3():
    network = on_meta(pool_after_conv3=True)
    features = network.extract(torch.zeros(1, 3, 32, 32, device="meta"), network.layer_names)
    assert [tuple(features[info.name].shape[2:]) for info in network.feature_info] == [(16, 16), (8, 8), (4, 4), (4, 4)]
    assert [info.reduction for info in network.feature_info] == [2, 4, 8, 8]
    assert num_parameters(network) == num_parameters(on_meta())


def test_features_equal_those_of_a_plain_sequence_of_layers():
    torch.manual_seed(0)
    network = NIN(CIFAR, num_blocks=3, width=0.05, pool_after_conv3=True)  # in training mode: BatchNorm uses the batch
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d)
    order = "CNR CNR CNR M CNR CNR CNR A CNR CNR CNR A".replace(" ", "")
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    assert "".join("CNRMA"[kinds.index(type(layer))] for layer in layers) == order
    x = torch.randn(2, 3, 16, 12)
    features = network.extract(x, ["conv1", "conv3"])
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            torch.testing.assert_close(features["conv1"], x, rtol=0, atol=0)
        elif isinstance(layer, nn.AvgPool2d):
            x = nn.functional.conv2d(x, torch.full((x.shape[1], 1, 3, 3), 1 / 9), stride=2, padding=1, groups=x.shape[1])
        else:
            x = layer(x.clone())
    torch.testing.assert_close(features["conv3"], x)


def test_extract_stops_at_the_deepest_layer_asked_for():
    network = NIN(CIFAR, num_blocks=3, width=0.05)
    ran = []
    for name, block in network.blocks.items():
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    assert list(network.extract(torch.rand(1, 3, 8, 8), ["conv2"])) == ["conv2"]
    assert ran == ["conv1", "conv2"]
    ran.clear()
    assert set(network.extract(torch.rand(2, 3, 8, 8), ["conv2", "conv1", "conv2"])) == {"conv1", "conv2"}
    assert ran == ["conv1", "conv2"]


def test_width_scales_every_unit():
    network = on_meta(width=0.25)
    convs = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert convs == [48, 40, 24, *[48] * 9]
    assert [info.num_chs for info in network.feature_info] == [24, 48, 48, 48]
    one_channel_everywhere = (3 * 25 + 1 + 1) + (25 + 1 + 1) + 2 * (9 + 1 + 1)
    assert num_parameters(on_meta(width=0.001)) == one_channel_everywhere + 12 * 2  # 12 BatchNorms


@pytest.mark.parametrize(("image", "size"), [(GRAY, (28, 28)), (CIFAR, (48, 20)), (CIFAR, (1, 1))])
def test_other_colours_and_sizes(image, size):
    features = on_meta(image).extract(torch.zeros(2, image.num_chs, *size, device="meta"), ["conv4"])["conv4"]
    assert features.shape == (2, 192, *(math.ceil(math.ceil(side / 2) / 2) for side in size))


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    network = NIN(CIFAR, num_blocks=3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * module.weight.numel()))
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_gradient_reaches_every_parameter():
    network = NIN(GRAY, width=0.05)
    network.embed(torch.rand(4, 1, 28, 28)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("num_blocks", [2, 6])
def test_depths_that_do_not_exist(num_blocks):
    with pytest.raises(OptionError, match=rf"^num_blocks: unknown depth; found {num_blocks}; allowed: 3, 4, 5$"):
        NIN(CIFAR, num_blocks=num_blocks)


@pytest.mark.parametrize("width", [math.inf, math.nan])
def test_widths_that_are_no_numbers(width):
    with pytest.raises(OptionError, match=rf"^width: must be finite; found {width}$"):
        NIN(CIFAR, width=width)


@pytest.mark.parametrize("width", [0, -1.0, 1_000_001, 1e300])
def test_widths_that_make_no_sense(width):
    with pytest.raises(OptionError, match=rf"^width: is out of range; found {re.escape(str(width))}; allowed: 0 < width <= 1,000,000$"):
        NIN(CIFAR, width=width)


def test_a_layer_that_does_not_exist():
    with pytest.raises(BackboneError, match=r"^layer 'conv4' does not exist in NIN; allowed: conv1, conv2, conv3$"):
        on_meta(num_blocks=3)(torch.zeros(1, 3, 32, 32, device="meta"), ["conv4"])


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_unit_is_convolution_batchnorm_relu(kernel_size):
    (unit,) = nin_block(2, (5,), kernel_size).eval()
    conv, norm, _ = unit
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.bias is None
    norm.running_mean, norm.running_var = torch.rand(5), torch.rand(5) + 0.5
    x = torch.randn(2, 2, 7, 6)
    padded = nn.functional.pad(x, [kernel_size // 2] * 4)
    expected = torch.zeros(2, 5, 7, 6)
    for row in range(7):
        for column in range(6):
            window = padded[:, :, row : row + kernel_size, column : column + kernel_size]
            expected[:, :, row, column] = torch.einsum("nchw,ochw->no", window, conv.weight)
    expected = (expected - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(unit(x), expected.clamp_min(0))


def test_nin_block_has_one_spatial_unit_then_1x1_units():
    convs = [module for module in nin_block(3, (8, 6, 4), kernel_size=5).modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size) for conv in convs] == [(3, 8, (5, 5)), (8, 6, (1, 1)), (6, 4, (1, 1))]
    assert nin_block(4, (4, 4, 4))(torch.rand(2, 4, 9, 5)).shape == (2, 4, 9, 5)


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (nn.Conv2d(16, 64, 5), math.sqrt(2 / (25 * 64))),
        (nn.Conv2d(128, 96, 1), math.sqrt(2 / 96)),
        (nn.Conv2d(64, 32, (3, 1)), math.sqrt(2 / (3 * 32))),
        (nn.Linear(300, 50), math.sqrt(2 / 50)),
    ],
    ids=["conv5", "conv1", "conv3x1", "linear"],
)
def test_init_weights_draws_what_the_paper_draws(layer, std):
    torch.manual_seed(0)
    layer.apply(init_weights)
    assert layer.weight.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(layer.weight.numel()))
    assert layer.weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * layer.weight.numel()))
    assert layer.bias.abs().max() == 0


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.BatchNorm2d(5)])
def test_init_weights_resets_batchnorm(layer):
    nn.init.uniform_(layer.weight, 2, 3)
    nn.init.uniform_(layer.bias, 2, 3)
    layer.apply(init_weights)
    assert layer.weight.tolist() == [1] * 5
    assert layer.bias.tolist() == [0] * 5


def test_init_weights_takes_layers_without_bias_and_leaves_others_alone():
    nn.Conv2d(1, 1, 1, bias=False).apply(init_weights)
    nn.BatchNorm2d(1, affine=False).apply(init_weights)
    other = nn.LayerNorm(3)
    nn.init.constant_(other.weight, 7)
    other.apply(init_weights)
    assert other.weight.tolist() == [7] * 3
