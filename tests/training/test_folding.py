from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import Backbone, FeatureInfo
from sslkit.backbones.from_timm import TimmBackbone
from sslkit.backbones.nin import NIN
from sslkit.storage.identity import state_hash
from sslkit.training.conv_bn_folding import folded
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.images import tiny_images

IMAGE = tiny_images(1).image


def trained(backbone: Backbone) -> Backbone:
    """As if trained: every BatchNorm has statistics, scales and shifts of its own."""
    with global_seed(1):
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.5)
                nn.init.uniform_(module.running_var, 0.3, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.5)
    return backbone


def build(kind: Callable[..., Backbone], **options: Any) -> Backbone:
    with global_seed(0):
        return trained(kind(IMAGE, **options))


def images(number: int = 5) -> Tensor:
    shape = (number, IMAGE.num_chs, IMAGE.height, IMAGE.width)
    return torch.randint(0, 256, shape, generator=Generator().manual_seed(7), dtype=torch.uint8)


def features(network: Backbone, layers: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(images(), layers)


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


class Small(Backbone):
    """One convolution and one BatchNorm, in the arrangement that a test needs."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.feature_info = (FeatureInfo("map", 4, 1),)
        self.convolution = nn.Conv2d(image.num_chs, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"map": self.norm(self.convolution(x)).relu()}


# ---------------------------------------------------------------------------------------------------------------- the figures


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (NIN, {"width": 0.1}),
        (TinyConv, {}),
        (TimmBackbone, {"model": "resnet18", "cifar_stem": True}),
        (TimmBackbone, {"model": "mobilenetv3_small_050"}),  # its BatchNorms hold the activations that follow them
    ],
    ids=["nin", "tiny", "resnet", "mobilenet"],
)
def test_folded_features_equal_plain_ones(kind: Any, options: dict):
    backbone = build(kind, **options).eval()
    network = folded(backbone, backbone.layer_names)
    assert num_norms(backbone) > 0
    assert num_norms(network) == 0
    plain, found = features(backbone, backbone.layer_names), features(network, backbone.layer_names)
    assert found.keys() == plain.keys()
    for layer in backbone.layer_names:
        assert (found[layer] - plain[layer]).abs().max() < 1e-5 * plain[layer].abs().max(), layer


def test_under_autocast_they_are_as_close_as_bfloat16_is_exact():
    backbone = build(NIN, width=0.1).eval()
    exact = features(backbone, ["conv4"])["conv4"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, found = (features(network, ["conv4"])["conv4"] for network in (backbone, folded(backbone, ["conv4"])))
    assert found.dtype == plain.dtype == torch.bfloat16
    errors = [float((one.float() - exact).norm() / exact.norm()) for one in (plain, found)]
    assert errors[1] < 1.5 * errors[0] < 0.05


def test_deeper_layers_are_neither_folded_nor_run():
    backbone = build(NIN, width=0.1).eval()
    network = folded(backbone, ["conv1"])
    assert (num_norms(backbone), num_norms(network)) == (12, 9)
    assert isinstance(network, NIN)
    for number in (2, 3, 4):
        del network.blocks[f"conv{number}"]
    torch.testing.assert_close(features(network, ["conv1"]), features(backbone, ["conv1"]))


def test_the_copy_is_in_eval_mode_needs_no_gradient_and_has_the_memory_format_of_the_original():
    backbone = build(NIN, width=0.1).train()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        backbone.to(memory_format=memory_format)
        network = folded(backbone, ["conv2"])
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]
        assert all(weight.is_contiguous(memory_format=memory_format) for weight in weights)


def test_the_original_is_left_alone():
    backbone = build(TinyConv, dropout=0.5).train()
    backbone.stem.eval()
    before, modes = state_hash(backbone), {name: module.training for name, module in backbone.named_modules()}
    strides = {name: tensor.stride() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    network = folded(backbone, ["body"])
    assert network is not backbone
    assert torch.equal(torch.get_rng_state(), state)
    assert state_hash(backbone) == before
    assert {name: module.training for name, module in backbone.named_modules()} == modes
    assert {name: tensor.stride() for name, tensor in backbone.state_dict().items()} == strides
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in [*backbone.modules(), *network.modules()])


# ----------------------------------------------------------------------------------------------- where plain features are taken


class UsedTwice(Small):
    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        x = self.convolution(x)
        return {"map": self.norm(x) + x.sigmoid()}


class HandedOut(Small):
    """The output of the convolution is a layer of its own."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.feature_info = (FeatureInfo("raw", 4, 1), FeatureInfo("map", 4, 1))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        x = self.convolution(x)
        return {"raw": x, "map": self.norm(x)}


class Shared(Small):
    """One convolution before and after the BatchNorm."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.convolution = nn.Conv2d(image.num_chs, image.num_chs, 3, padding=1)
        self.norm = nn.BatchNorm2d(image.num_chs)
        self.feature_info = (FeatureInfo("map", image.num_chs, 1),)

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"map": self.convolution(self.norm(self.convolution(x)))}


class Branching(Small):
    """Bright images skip the BatchNorm: noise never shows it."""

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        bright = bool(x.mean() > 1)
        x = self.convolution(x)
        return {"map": x if bright else self.norm(x)}


class Alternating(Small):
    """Every other call skips the BatchNorm."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.calls = 0

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        self.calls += 1
        x = self.convolution(x)
        return {"map": self.norm(x) if self.calls % 2 else x}


class Scaling(nn.BatchNorm2d):
    """A BatchNorm that does more than its name says."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return 2 * super().forward(input)


class Extended(Small):
    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.norm = Scaling(4)


class OfTheBatch(Small):
    """Statistics of the batch, in eval mode too."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class Particular(Small):
    """Cannot be run with two images."""

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if len(x) == 2:
            raise ValueError("an odd number of images, please")
        return super().extract(x, layers)


class Random(Small):
    """Never gives the same features twice, but for the same random state."""

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return super().extract(x + torch.randn_like(x), layers)


@pytest.mark.parametrize("kind", [UsedTwice, HandedOut, Shared, Branching, Alternating, Extended, OfTheBatch, Particular])
def test_where_folding_would_change_the_features_the_plain_network_is_used(kind: type[Small]):
    with global_seed(0):
        backbone = kind(IMAGE)
    if kind is not OfTheBatch:
        trained(backbone)
    assert folded(backbone, backbone.layer_names) is backbone


def test_where_there_is_nothing_to_fold_nothing_is_copied():
    backbone = build(TinyTokens)
    assert folded(backbone, ["block"]) is backbone


def test_a_network_that_draws_random_numbers_is_compared_with_the_same_draws():
    backbone = build(Random).eval()
    network = folded(backbone, ["map"])
    assert num_norms(network) == 0
    found, plain = [], []
    for one, results in ((network, found), (backbone, plain)):
        with global_seed(3):
            results.append(features(one, ["map"])["map"])
    torch.testing.assert_close(found, plain)


def test_a_convolution_that_feeds_two_norms_keeps_both():
    class Two(Small):
        def __init__(self, image: Any) -> None:
            super().__init__(image)
            self.other = nn.BatchNorm2d(4)
            self.last = nn.Conv2d(4, 4, 1)
            self.end = nn.BatchNorm2d(4)

        def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
            x = self.convolution(x)
            return {"map": self.end(self.last(self.norm(x).relu() - self.other(x)))}

    backbone = build(Two).eval()
    network = folded(backbone, ["map"])
    assert num_norms(network) == 2  # the last one alone is folded
    torch.testing.assert_close(features(network, ["map"]), features(backbone, ["map"]))
