"""Evaluators that write into what they are lent, each in its own way."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import ixor
from typing import Literal, final

from sslkit import Backbone, Evaluation, Evaluator, ImageSet, LabeledData, RunContext

WAYS: dict[str, Callable[[ImageSet], object]] = {
    "labels": lambda images: images.labels[:1].add_(1).remainder_(len(images.classes)),
    "numpy labels": lambda images: images.labels.numpy().fill(0),
    "other labels": lambda images: setattr(images, "labels", images.labels.flip(0)),
    "other classes": lambda images: setattr(images, "classes", images.classes[::-1]),
    "pixels": lambda images: images.pixels.add_(1),
    "numpy pixels": lambda images: ixor(images.pixels.numpy()[-1, :, 0, 0], 255),
    "shuffled pixels": lambda images: images.pixels.copy_(images.pixels.flip(0)),
    "other pixels": lambda images: setattr(images, "pixels", images.pixels.flip(-1)),
}


@final
@dataclass(frozen=True, kw_only=True)
class Vandal(Evaluator):
    """Changes what it can reach of the test images.

    Attributes:
        way: what is changed, and by which library.
        when: in which method.
    """

    way: str = "labels"
    when: Literal["check", "evaluate", "never"] = "evaluate"

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        if self.when == "check":
            WAYS[self.way](data.test)

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        if self.when == "evaluate":
            WAYS[self.way](data.test)
        return Evaluation({"top1": 50.0})
