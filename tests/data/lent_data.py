"""Evaluators that write into what they are lent, each in its own way."""

from dataclasses import dataclass
from typing import Literal, final

from sslkit import Backbone, Evaluation, Evaluator, LabeledData, RunContext

WAYS = ("labels", "numpy labels", "pixels", "numpy pixels", "shuffled pixels", "other labels", "other classes", "other pixels")


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
            vandalise(data, self.way)

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        if self.when == "evaluate":
            vandalise(data, self.way)
        return Evaluation({"top1": 50.0})


def vandalise(data: LabeledData, way: str) -> None:
    test = data.test
    assert test.labels is not None
    match way:
        case "labels":
            test.labels[0] = (test.labels[0] + 1) % data.num_classes
        case "numpy labels":
            test.labels.numpy()[...] = 0
        case "other labels":
            test.labels = test.labels.flip(0)
        case "other classes":
            test.classes = test.classes[::-1]
    if "pixels" in way:
        assert test.pixels is not None
        match way:
            case "pixels":
                test.pixels.add_(1)
            case "numpy pixels":
                test.pixels.numpy()[-1, :, 0, 0] ^= 255
            case "shuffled pixels":
                test.pixels.copy_(test.pixels.flip(0))
            case "other pixels":
                test.pixels = test.pixels.flip(-1)
