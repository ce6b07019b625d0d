"""The Network in Network and its classifiers in plain PyTorch, as one writes them from the paper: what sslkit speeds up must not leak in."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from measurement.workload import HEADS, NUM_CLASSES, Workload
from sslkit.evaluators.heads import HeadKind


def unit(in_chs: int, out_chs: int, kernel_size: int) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU."""
    conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_chs), nn.ReLU(inplace=True)]


def block(in_chs: int, widths: Sequence[int], kernel_size: int) -> nn.Sequential:
    """Three units, the first of them spatial."""
    first, second, third = widths
    return nn.Sequential(*unit(in_chs, first, kernel_size), *unit(first, second, 1), *unit(second, third, 1))


class PlainNIN(nn.Module):
    """Normalised (N, 3, S, S) floats in, one feature map for each layer asked for out.

    Args:
        width: factor on the number of channels.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        w96, w160, w192 = (max(1, round(base * width)) for base in (96, 160, 192))
        self.num_chs = {"conv1": w96, "conv2": w192, "conv3": w192, "conv4": w192}
        self.blocks = nn.ModuleDict(
            {
                "conv1": block(3, (w192, w160, w96), 5).append(nn.MaxPool2d(3, stride=2, padding=1)),
                "conv2": block(w96, (w192, w192, w192), 5).append(nn.AvgPool2d(3, stride=2, padding=1)),
                "conv3": block(w192, (w192, w192, w192), 3),
                "conv4": block(w192, (w192, w192, w192), 3),
            }
        )

    def forward(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Stops at the deepest layer."""
        features = {}
        for name, stage in self.blocks.items():
            x = stage(x)
            if name in layers:
                features[name] = x
            if len(features) == len(layers):
                break
        return features


def head(kind: HeadKind, num_chs: int, side: int, num_classes: int) -> nn.Sequential:
    """A classifier on a (N, num_chs, side, side) map."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if kind == "linear":
        return nn.Sequential(*pooled, nn.Linear(num_chs, num_classes))
    if kind == "conv":
        return nn.Sequential(block(num_chs, (num_chs,) * 3, 3), *pooled, nn.Linear(num_chs, num_classes))
    hidden = 20 * num_classes
    first = [nn.Linear(num_chs * side**2, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    second = [nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Flatten(), *first, *second, nn.Linear(hidden, num_classes))


class PlainClassifier(nn.Module):
    """Heads on layers of one network; where it is frozen it stays in eval mode and gets no gradient.

    Args:
        trunk: the network.
        heads: by layer.
        frozen: train the heads alone.
    """

    def __init__(self, trunk: PlainNIN, heads: Mapping[str, nn.Module], *, frozen: bool) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(not frozen)
        self.heads = nn.ModuleDict(heads)
        self._frozen = frozen

    def train(self, mode: bool = True) -> "PlainClassifier":
        """Leaves a frozen network in eval mode."""
        super().train(mode)
        self.trunk.train(mode and not self._frozen)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits of each head."""
        features = self.trunk(x, list(self.heads))  # frozen parameters record no graph
        return [head(features[layer]) for layer, head in self.heads.items()]


def classifier(workload: Workload, side: int) -> PlainClassifier:
    """The network that a job trains.

    Args:
        workload: which job.
        side: of the images, in pixels.
    """
    trunk = PlainNIN(workload.width)
    if workload.job == "pretrain":
        return PlainClassifier(trunk, {"conv4": head("linear", trunk.num_chs["conv4"], side // 4, num_classes=4)}, frozen=False)
    kind = HEADS[workload.job]
    sides = {layer: side // (2 if layer == "conv1" else 4) for layer in workload.used_layers}
    heads = {layer: head(kind, trunk.num_chs[layer], sides[layer], NUM_CLASSES) for layer in workload.used_layers}
    return PlainClassifier(trunk, heads, frozen=workload.job != "finetune")
