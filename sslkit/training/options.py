"""The options of training, the same in every stage that trains."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError, did_you_mean
from sslkit.contract.images import Augment
from sslkit.contract.training import OptimizerFactory, Schedule
from sslkit.training.optimizers import SGD
from sslkit.training.schedules import Cosine


@final
@dataclass(frozen=True, kw_only=True)
class OnNan(Checked):
    """What to do when the loss or its gradient is no longer finite, or explodes.

    The fit goes back to the beginning of the epoch in which that happened, and continues with a lower learning rate.

    Attributes:
        retries: how many times; 0: stop at the first.
        lr_factor: multiplies the learning rate from there on, again with each retry.
    """

    retries: int = 0
    lr_factor: float = 0.5

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise OptionError("retries", "must not be negative", found=self.retries, allowed="0 (stop) or more")
        if not 0.0 < self.lr_factor < 1.0:
            raise OptionError("lr_factor", "must lower the learning rate", found=self.lr_factor, allowed="0 < lr_factor < 1")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Checked):
    """The options of a training loop. Evaluators that train inherit these fields; a pretraining stage holds them itself.

    Attributes:
        epochs: passes over the images.
        batch_size: images per optimizer step, over all processes, before a task multiplies them into views.
        optimizer: one for all phases, or one for each phase by name.
        schedule: of the learning rate.
        augment: done once per image, on training images only.
        clip_grad_norm: gradients of a phase are scaled down to this 2-norm where they are longer; None: never.
        on_nan: what to do when the loss or its gradient is no longer finite, or explodes.
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: OptimizerFactory | Mapping[str, OptimizerFactory] = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    augment: Augment = field(default_factory=Augment)
    clip_grad_norm: float | None = None
    on_nan: OnNan = field(default_factory=OnNan)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise OptionError("epochs", "must be positive", found=self.epochs, allowed="1 or more")
        if self.batch_size < 1:
            raise OptionError("batch_size", "must be positive", found=self.batch_size, allowed="1 or more images")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0.0:
            raise OptionError("clip_grad_norm", "must be positive", found=self.clip_grad_norm, allowed="a number above 0")

    def check_batch_size(self, num_images: int) -> None:
        """Refuse a batch larger than the data, which would silently train on fewer images per step.

        Raises:
            OptionError: names ``batch_size``.
        """
        if self.batch_size > num_images:
            raise OptionError(
                "batch_size", f"is larger than the data ({num_images} images)", found=self.batch_size, allowed=f"1 to {num_images}"
            )

    def optimizers_for(self, phases: Sequence[str]) -> dict[str, OptimizerFactory]:
        """The optimizer of each phase.

        Raises:
            OptionError: optimizers are given per phase, and not for these phases.
        """
        if isinstance(self.optimizer, OptimizerFactory):
            return dict.fromkeys(phases, self.optimizer)
        for name in self.optimizer:
            if name not in phases:
                problem = "is given for an unknown phase"
                raise OptionError("optimizer", problem, found=name, allowed=phases, fix=did_you_mean(name, phases))
        for phase in phases:
            if phase not in self.optimizer:
                raise OptionError("optimizer", f"no optimizer for phase {phase!r}", found=list(self.optimizer))
        return dict(self.optimizer)


def check_epochs(option: str, epochs: Iterable[int], num_epochs: int) -> list[int]:
    """The epochs of an option in order; 0 for the untrained network. They must be distinct epochs of the training."""
    found = sorted(epochs)
    if any(not 0 <= epoch <= num_epochs for epoch in found) or len(set(found)) < len(found):
        raise OptionError(option, "must be distinct epochs of the training", found=found, allowed=f"0 to {num_epochs}")
    return found


def spread_epochs(num_epochs: int, most: int) -> list[int]:
    """At most so many epochs of a training, 2 or more, evenly spread: 0 and the last among them."""
    steps = min(most - 1, num_epochs)
    return [round(step * num_epochs / steps) for step in range(steps + 1)]
