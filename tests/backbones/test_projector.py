"""Projectors against the same layers built by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from sslkit import OptionError, projector
from sslkit.training.seeds import global_seed


def batch_norm(width: int) -> list[nn.Module]:
    return [nn.BatchNorm1d(width), nn.ReLU()]


PUBLISHED: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "without norm": ([6, 8, 4], {"norm": False}, lambda: [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)]),
    "2006.07733": ([6, 8, 4], {}, lambda: [nn.Linear(6, 8, bias=False), *batch_norm(8), nn.Linear(8, 4)]),
    "2011.10566": (
        (6, 8, 8, 8),
        {"last_norm": "plain"},
        lambda: [
            nn.Linear(6, 8, bias=False),
            *batch_norm(8),
            nn.Linear(8, 8, bias=False),
            *batch_norm(8),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8, affine=False),
        ],
    ),
    "2103.03230": ([6, 8, 8], {"bias": False}, lambda: [nn.Linear(6, 8, bias=False), *batch_norm(8), nn.Linear(8, 8, bias=False)]),
    "2104.14294": (
        [6, 8, 8, 4],
        {"norm": False, "activation": "gelu"},
        lambda: [nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)],
    ),
    "affine": ([6, 4], {"last_norm": "affine"}, lambda: [nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)]),
    "one layer": ([6, 4], {}, lambda: [nn.Linear(6, 4)]),
}


@pytest.mark.parametrize(("widths", "options", "layers"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_it_is_the_published_network(widths: Any, options: dict[str, Any], layers: Any):
    with global_seed(1):
        found = projector(widths, **options)
    with global_seed(1):
        expected = nn.Sequential(*layers())
    assert found.state_dict().keys() == expected.state_dict().keys()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for network in (found, expected):
        network(x).pow(3).sum().backward()
    assert torch.equal(found(x), expected(x))
    for (name, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), name


def test_a_norm_with_a_scale_alone_has_an_offset_that_stays_zero():
    network = projector([6, 8, 4], last_norm="scale")
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == ["4.bias"]
    assert not network[4].bias.any()
    assert network[3].bias is None


def test_the_result_is_float32_under_autocast():
    network = projector([6, 8, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network[0](torch.ones(2, 6)).dtype == torch.bfloat16
        assert network(torch.ones(2, 6)).dtype == torch.float32


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ([8], {}, r"widths: must be two positive numbers or more: of the input, hidden layers and the output; found \[8\]"),
        ([8, 0], {}, "widths: must be two positive numbers"),
        ([8, 4], {"last_norm": "batch"}, "last_norm: is unknown; found 'batch'; allowed: none, affine, scale, plain"),
        ([8, 4], {"activation": "tanh"}, "activation: is unknown; found 'tanh'; allowed: relu, gelu"),
    ],
)
def test_what_it_cannot_build_is_refused(widths: Any, options: Any, message: str):
    with pytest.raises(OptionError, match=f"^{message}"):
        projector(widths, **options)
