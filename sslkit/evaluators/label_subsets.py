"""Few labels: which training images an evaluation may use."""

from typing import Literal

import torch
from torch import Generator, Tensor

from sslkit.contract.errors import DataError

Selection = Literal["first", "random"]


def select_per_class(labels: Tensor, labels_per_class: int, selection: Selection, generator: Generator) -> Tensor:
    """Choose the same number of images of every class.

    Args:
        labels: (N,) int64.
        labels_per_class: how many to choose of each class.
        selection: ``first`` in data-set order (the RotNet reference code's choice), or ``random``.
        generator: on the CPU; used by ``random`` only.

    Returns:
        (num_classes * labels_per_class,) int64 indices, ordered.

    Raises:
        DataError: a class has fewer images.
    """
    chosen = [_of_one_class(labels, int(label), labels_per_class, selection, generator) for label in labels.unique()]
    return torch.cat(chosen).sort().values


def smallest_class(labels: Tensor) -> int:
    """The number of images of the class that has the fewest."""
    return int(labels.unique(return_counts=True)[1].min())


def _of_one_class(labels: Tensor, label: int, labels_per_class: int, selection: Selection, generator: Generator) -> Tensor:
    members = (labels == label).nonzero().flatten()
    if len(members) < labels_per_class:
        raise DataError(
            f"class {label} has {len(members)} images", found=labels_per_class, allowed=f"at most {len(members)} labels per class"
        )
    order = torch.randperm(len(members), generator=generator) if selection == "random" else torch.arange(len(members))
    return members[order[:labels_per_class]]
