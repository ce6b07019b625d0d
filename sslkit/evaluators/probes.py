"""Probes: a classifier trained on the features of a frozen backbone, on several layers at once."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import OptionError
from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
from sslkit.contract.images import LabeledData
from sslkit.evaluators.classifier import build_heads, check_classifier, fit_classifier
from sslkit.evaluators.heads import HeadKind
from sslkit.evaluators.views import ClassifierOptions


@dataclass(frozen=True, kw_only=True)
class Probe(ClassifierOptions, Evaluator):
    """What the three probes share.

    Attributes:
        layers: where to probe; all share one forward pass.
        head: what is trained on each layer.
    """

    layers: tuple[str, ...]
    head: ClassVar[HeadKind]

    @override
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        check_classifier("layers", self.layers, self.head, self, backbone, data)

    @override
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Reports ``<layer>.top1``."""
        heads = build_heads(self.head, self.layers, backbone, data, context, width=self.head_width, view=self.view(train=True))
        fitted = fit_classifier(backbone, heads, data, self, context, freeze=True)
        return Evaluation(fitted.metrics, heads=heads, predictions=fitted.predictions)

    @property
    def head_width(self) -> int | None:
        """Of the head's hidden layers or block; None: the paper's."""
        return None


@final
@dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe):
    """Global average pooling and one linear layer."""

    head = "linear"


@final
@dataclass(frozen=True, kw_only=True)
class MLPProbe(Probe):
    """RotNet's non-linear classifier with two hidden layers (arXiv:1803.07728).

    Attributes:
        hidden: width of the hidden layers; by default ``min(20 * classes, 2048)``.
    """

    head = "mlp"
    hidden: int | None = None

    def __post_init__(self) -> None:
        ClassifierOptions.__post_init__(self)
        _check_width("hidden", self.hidden)

    @property
    @override
    def head_width(self) -> int | None:
        return self.hidden


@final
@dataclass(frozen=True, kw_only=True)
class ConvProbe(Probe):
    """RotNet's convolutional classifier: a block of the Network in Network, global average pooling, a linear layer (arXiv:1803.07728).

    Attributes:
        width: channels of the block; by default those of the layer.
    """

    head = "conv"
    width: int | None = None

    def __post_init__(self) -> None:
        ClassifierOptions.__post_init__(self)
        _check_width("width", self.width)

    @property
    @override
    def head_width(self) -> int | None:
        return self.width


def _check_width(option: str, width: int | None) -> None:
    if width is not None and width < 1:
        raise OptionError(option, "must be positive", found=width, allowed="1 or more")
