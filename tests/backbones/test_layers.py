import math

import pytest
import torch
from torch import nn

from sslkit.backbones.blocks import init_weights, nin_block


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
