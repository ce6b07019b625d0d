"""What the predictions of a classifier amount to, beside the part that is right: on classes of unlike sizes that part alone misleads."""

from sslkit.contract.objective import Prediction

TOP5_FROM = 20
"""Classes from which on the five most likely ones are worth a metric."""

UNEVEN = 1.5
"""Times as many test images as the smallest class has: from there on, classes are of unlike sizes."""


def accuracies(prediction: Prediction) -> dict[str, float]:
    """In percent: ``top5`` where there are 20 classes or more, and ``balanced``, the mean of all classes' recalls, where they are uneven.

    Args:
        prediction: on all test images.
    """
    found: dict[str, float] = {}
    if prediction.logits.shape[1] >= TOP5_FROM:
        right = (prediction.logits.topk(5, dim=1).indices == prediction.targets[:, None]).any(dim=1)
        found["top5"] = 100.0 * right.double().mean().item()
    if is_uneven(prediction):
        known = [recall for recall in recalls(prediction) if recall is not None]
        found["balanced"] = sum(known) / len(known)
    return found


def majority(prediction: Prediction) -> float:
    """In percent, what is reached by always naming the class with the most test images."""
    return 100.0 * prediction.targets.bincount().max().item() / len(prediction.targets)


def recalls(prediction: Prediction) -> list[float | None]:
    """For each class, the percentage of its test images that was recognised; None for a class without any."""
    num_classes = prediction.logits.shape[1]
    targets = prediction.targets.bincount(minlength=num_classes)
    right = prediction.targets[prediction.logits.argmax(dim=1) == prediction.targets].bincount(minlength=num_classes)
    return [100.0 * hits / number if number else None for hits, number in zip(right.tolist(), targets.tolist(), strict=True)]


def is_uneven(prediction: Prediction) -> bool:
    """Whether some class has half as many test images again as another, classes without any left aside."""
    counts = prediction.targets.bincount()
    counts = counts[counts > 0]
    return bool(counts.max() >= UNEVEN * counts.min()) and len(counts) > 1


def few_classes(prediction: Prediction) -> tuple[int, int] | None:
    """How many classes are ever predicted, of how many that test images have, where it is less than half of them; else None."""
    named, present = (int(classes.unique().numel()) for classes in (prediction.logits.argmax(dim=1), prediction.targets))
    return (named, present) if 2 * named < present or (named == 1 and present > 1) else None
