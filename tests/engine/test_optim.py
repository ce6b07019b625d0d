import pytest
import torch

from sslkit import SGD, AdamW, OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "^lr: must be positive; found 0.0; allowed: a number above 0"),
        ({"lr": -1.0}, "^lr: must be positive; found -1.0"),
        ({"weight_decay": -0.1}, "^weight_decay: must not be negative; found -0.1; allowed: 0 or more"),
        ({"momentum": 1.0}, "^momentum: is out of range; found 1.0; allowed: 0 <= momentum < 1"),
        ({"momentum": -0.1}, "^momentum: is out of range"),
        ({"momentum": 0.0}, "^nesterov: needs momentum; found True; set momentum above 0 or nesterov = false"),
    ],
)
def test_sgd_refuses(options: dict[str, float], message: str):
    with pytest.raises(OptionError, match=message):
        SGD(**options)  # pyright: ignore[reportArgumentType] - all of these are numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "^lr: must be positive"),
        ({"weight_decay": -0.1}, "^weight_decay: must not be negative"),
        ({"betas": (0.9, 1.0)}, r"^betas: are out of range; found \(0.9, 1.0\); allowed: 0 <= beta < 1"),
        ({"betas": (-0.1, 0.9)}, "^betas: are out of range"),
        ({"eps": 0.0}, "^eps: must be positive; found 0.0"),
    ],
)
def test_adamw_refuses(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        AdamW(**options)


def test_momentum_may_be_switched_off():
    optimizer = SGD(momentum=0.0, nesterov=False).build([{"params": [torch.nn.Parameter(torch.ones(1))]}])
    assert optimizer.defaults["momentum"] == 0.0


def test_the_options_reach_torch():
    parameter = torch.nn.Parameter(torch.ones(1))
    sgd = SGD(lr=0.3, momentum=0.8, nesterov=False, weight_decay=0.01).build([{"params": [parameter]}])
    assert type(sgd) is torch.optim.SGD
    assert {key: sgd.param_groups[0][key] for key in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.3,
        "momentum": 0.8,
        "nesterov": False,
        "weight_decay": 0.01,
    }
    adamw = AdamW(lr=0.2, betas=(0.5, 0.6), eps=1e-6, weight_decay=0.03).build([{"params": [parameter]}])
    assert type(adamw) is torch.optim.AdamW
    assert {key: adamw.param_groups[0][key] for key in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 0.2,
        "betas": (0.5, 0.6),
        "eps": 1e-6,
        "weight_decay": 0.03,
    }


def test_a_group_may_have_its_own_weight_decay():
    one, two = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = SGD(weight_decay=0.01).build([{"params": [one]}, {"params": [two], "weight_decay": 0.0}])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
