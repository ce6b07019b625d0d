"""Training the whole network with labels: fine-tuning, and the supervised baseline."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
from sslkit.contract.images import LabeledData
from sslkit.evaluators.classifier import build_heads, check_classifier, fit_classifier
from sslkit.evaluators.heads import HeadKind
from sslkit.evaluators.views import ClassifierOptions


@dataclass(frozen=True, kw_only=True)
class EndToEnd(ClassifierOptions, Evaluator):
    """What fine-tuning and the supervised baseline share.

    Attributes:
        layer: where the head is attached; deeper layers are not used. None: the deepest.
        head: ``linear`` (global average pooling, one linear layer), ``mlp`` or ``conv``: the probes' heads.
    """

    exports_backbone: ClassVar[bool] = True
    layer: str | None = None
    head: HeadKind = "linear"

    @property
    def frozen(self) -> bool:
        """Never: the backbone is trained."""
        return False

    @override
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        check_classifier("layer", [self.layer_in(backbone)], self.head, self, backbone, data)

    def layer_in(self, backbone: Backbone) -> str:
        """The layer under the head."""
        return backbone.layer_names[-1] if self.layer is None else self.layer

    @override
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Reports ``<layer>.top1`` and leaves the trained backbone."""
        heads = build_heads(self.head, [self.layer_in(backbone)], backbone, data, context, view=self.view(train=True))
        fitted = fit_classifier(backbone, heads, data, self, context, freeze=False)
        return Evaluation(fitted.metrics, backbone=backbone, heads=heads, predictions=fitted.predictions)


@final
@dataclass(frozen=True, kw_only=True)
class FineTune(EndToEnd):
    """Train a pretrained backbone and a new head together."""


@final
@dataclass(frozen=True, kw_only=True)
class Supervised(EndToEnd):
    """The baseline: the same network trained with labels from random weights."""

    from_scratch: ClassVar[bool] = True
