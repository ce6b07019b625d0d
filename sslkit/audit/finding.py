"""What an audit found, as a value."""

from dataclasses import dataclass
from typing import Any

from sslkit.audit.intervals import Estimate, Pair


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one classifier of a task made of one source of images.

    Attributes:
        source: what the images were made of.
        classifier: its name among the objective's predictions.
        classes: the names of its classes.
        num_images: how many images it was trained on.
        num_heldout: how many other ones it was measured on.
        accuracy: over all classes.
        pairs: every two classes that occur.
        seconds: that it took to make the images, train and measure.
    """

    source: str
    classifier: str
    classes: tuple[str, ...]
    num_images: int
    num_heldout: int
    accuracy: Estimate
    pairs: tuple[Pair, ...]
    seconds: float

    @property
    def worst(self) -> Pair:
        """The pair that is most surely told apart."""
        return max(self.pairs, key=lambda pair: pair.accuracy.low)

    @property
    def leaks(self) -> bool:
        """Whether the accuracy or any pair is above chance. Without a shortcut, that happens in at most 5 of 100 audits."""
        return self.accuracy.above_chance or self.worst.accuracy.above_chance

    @property
    def verdict(self) -> str:
        """In words."""
        return "leaks" if self.leaks else "at chance"

    def names(self, pair: Pair) -> tuple[str, str]:
        """What the two classes are called."""
        first, second = pair.classes
        return self.classes[first], self.classes[second]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with every pair; accuracies in percent."""
        return {
            "source": self.source,
            "classifier": self.classifier,
            "classes": list(self.classes),
            "num_images": self.num_images,
            "num_heldout": self.num_heldout,
            "accuracy": self.accuracy._asdict(),
            "worst_pair": list(self.names(self.worst)),
            "pairs": [{"classes": list(self.names(pair)), **pair.accuracy._asdict()} for pair in self.pairs],
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }
