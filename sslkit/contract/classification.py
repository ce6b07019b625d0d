"""What methods that predict classes share: loss and accuracy, a linear head, and an objective that lacks nothing but its views."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import PluginError
from sslkit.contract.objective import Mean, Objective, Prediction, Step, StepOutput
from sslkit.contract.runtime import without_autocast


def classify(logits: Tensor, labels: Tensor, name: str = "") -> StepOutput:
    """The step output of a classifier: its cross-entropy, in float32, its accuracy in percent, and its predictions.

    Args:
        logits: (N, K).
        labels: (N,) int64, the right class of each row.
        name: of the classifier, where an objective has several, whose losses it adds up. Accuracy and prediction are called ``<name>.top1``
            and ``<name>``, without a name ``top1`` and ``class``.

    Raises:
        PluginError: logits or labels have another shape or type.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        found = f"{_kind(logits)} and {_kind(labels)}"
        raise PluginError("classify takes logits (N, K) and labels (N,) int64", found=found, fix="class numbers: labels.argmax(1), .long()")
    logits = logits.float()
    top1 = Mean.of(100.0 * (logits.argmax(dim=1) == labels))
    prediction = Prediction(logits.detach(), labels)
    return StepOutput(F.cross_entropy(logits, labels), {f"{name}.top1" if name else "top1": top1}, {name or "class": prediction})


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


class Linear(nn.Linear):
    """A linear layer that computes in float32 even under autocast: logits in bfloat16 often tie, and a tie is decided by chance."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features) float32."""
        with without_autocast(input.device):
            return super().forward(input.float())


class Classification(Objective):
    """Predicts the class that ``make_views`` gave each image: cross-entropy of a linear ``head`` on the pooled deepest layer of the backbone.

    A method derives from it and implements ``make_views``, which returns ``images`` (M, C, H, W) and ``labels`` (M,) int64.

    Args:
        backbone: the network to pretrain.
        classes: the classes' names, or how many there are.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[str] | int) -> None:
        super().__init__(backbone)
        num_classes = classes if isinstance(classes, int) else len(classes)
        self.classes = () if isinstance(classes, int) else tuple(classes)
        self.head = Linear(backbone.width, num_classes)

    @override
    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        return classify(self.head(self.backbone.embed(views["images"])), views["labels"])
