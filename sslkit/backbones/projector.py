"""The small network between features and a loss."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from sslkit.contract.errors import OptionError

_ACTIVATIONS = {"relu": lambda: nn.ReLU(inplace=True), "gelu": nn.GELU}
LastNorm = Literal["none", "affine", "scale", "plain"]


class Projector(nn.Sequential):
    """A multi-layer perceptron; made by :func:`projector`."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(N, widths[0]) -> (N, widths[-1]) float32, also under autocast, in which the layers themselves compute."""
        return super().forward(input).float()


def projector(
    widths: Sequence[int],
    *,
    norm: bool = True,
    last_norm: LastNorm = "none",
    bias: bool = True,
    activation: Literal["relu", "gelu"] = "relu",
) -> Projector:
    """A projection or prediction head: linear layers, and between two of them BatchNorm and an activation.

    A linear layer before BatchNorm has no bias, because BatchNorm would subtract it again.

    ==============================  ========================================================================
    method                          ``projector(...)``
    ==============================  ========================================================================
    SimCLR (arXiv:2002.05709)       ``[D, D, 128], last_norm="scale"``; MoCo v2: ``[D, D, 128], norm=False``
    BYOL (arXiv:2006.07733)         ``[D, 4096, 256]``, its predictor ``[256, 4096, 256]``
    SimSiam (arXiv:2011.10566)      ``[D, 2048, 2048, 2048], last_norm="plain"``, its predictor ``[2048, 512, 2048]``
    Barlow Twins, VICReg            ``[D, 8192, 8192, 8192], bias=False`` (arXiv:2103.03230, 2105.04906)
    SwAV (arXiv:2006.09882)         ``[D, 2048, 128]``
    DINO (arXiv:2104.14294)         ``[D, 2048, 2048, 256], norm=False, activation="gelu"``, before its prototypes
    ==============================  ========================================================================

    Args:
        widths: of the input, every hidden layer and the output: N + 1 numbers for N linear layers.
        norm: BatchNorm after each hidden layer.
        last_norm: BatchNorm of the output: ``none``, ``affine`` (scale and offset, as after hidden layers), ``scale`` (no offset) or
            ``plain`` (neither).
        bias: whether the last linear layer has one, where no BatchNorm follows.
        activation: after each hidden layer.

    Raises:
        OptionError: there are fewer than two widths, a width is not positive, or an option has an unknown value.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise OptionError("widths", "must be two positive numbers or more: of the input, hidden layers and the output", found=widths)
    if last_norm not in ("none", "affine", "scale", "plain"):
        raise OptionError("last_norm", "is unknown", found=last_norm, allowed=("none", "affine", "scale", "plain"))
    if activation not in _ACTIVATIONS:
        raise OptionError("activation", "is unknown", found=activation, allowed=_ACTIVATIONS)
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(num_in, num_out, bias=not norm))
        layers += [nn.BatchNorm1d(num_out)] if norm else []
        layers.append(_ACTIVATIONS[activation]())
    layers.append(nn.Linear(widths[-2], widths[-1], bias=bias and last_norm == "none"))
    if last_norm != "none":
        batch_norm = nn.BatchNorm1d(widths[-1], affine=last_norm != "plain")
        if last_norm == "scale":
            batch_norm.bias.requires_grad_(False)  # it stays 0
        layers.append(batch_norm)
    return Projector(*layers)
