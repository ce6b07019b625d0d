"""Learning-rate schedules: pure functions of the epoch, each with an optional linear warm-up from zero."""

import math
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from sslkit.contract.errors import OptionError
from sslkit.contract.training import Schedule


@final
@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """Multiply the rate by ``gamma`` after each milestone.

    Attributes:
        milestones: epochs after which the rate drops, increasing.
        gamma: the factor of one drop.
        warmup_epochs: epochs of linear warm-up from zero.
    """

    milestones: tuple[float, ...]
    gamma: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_epochs)
        if list(self.milestones) != sorted(set(self.milestones)) or any(m <= 0 for m in self.milestones):
            raise OptionError("milestones", "must increase and be positive", found=list(self.milestones))
        if not 0.0 < self.gamma <= 1.0:
            raise OptionError("gamma", "is out of range", found=self.gamma, allowed="0 < gamma <= 1")

    @override
    def scale(self, epoch: float, num_epochs: float) -> float:
        drops = sum(epoch >= milestone for milestone in self.milestones)
        return warmup(epoch, self.warmup_epochs) * self.gamma**drops

    @override
    def notes(self, num_epochs: float) -> list[str]:
        late = [milestone for milestone in self.milestones if milestone >= num_epochs]
        unused = [f"milestones: {', '.join(f'{each:g}' for each in late)} of {num_epochs:g} epochs change nothing"] if late else []
        return [*_notes(self.warmup_epochs, num_epochs), *unused]


@final
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to ``final``, Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.

    Attributes:
        final: the factor at the end.
        warmup_epochs: epochs of linear warm-up from zero; the cosine starts where they end.
    """

    final: float = 0.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_epochs)
        if not 0.0 <= self.final <= 1.0:
            raise OptionError("final", "is out of range", found=self.final, allowed="0 <= final <= 1")

    @override
    def scale(self, epoch: float, num_epochs: float) -> float:
        if epoch < self.warmup_epochs:
            return warmup(epoch, self.warmup_epochs)
        remaining = num_epochs - self.warmup_epochs
        progress = min(1.0, (epoch - self.warmup_epochs) / remaining) if remaining > 0 else 1.0
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    @override
    def notes(self, num_epochs: float) -> list[str]:
        return _notes(self.warmup_epochs, num_epochs)


@final
@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The base rate throughout.

    Attributes:
        warmup_epochs: epochs of linear warm-up from zero.
    """

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_epochs)

    @override
    def scale(self, epoch: float, num_epochs: float) -> float:
        return warmup(epoch, self.warmup_epochs)

    @override
    def notes(self, num_epochs: float) -> list[str]:
        return _notes(self.warmup_epochs, num_epochs)


def warmup(epoch: float, warmup_epochs: float) -> float:
    """Rise linearly from 0 to 1 over ``warmup_epochs``, then stay."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs > 0 else 1.0


def _notes(warmup_epochs: float, num_epochs: float) -> list[str]:
    late = warmup_epochs >= num_epochs
    return [f"warmup_epochs: {warmup_epochs:g} of {num_epochs:g} epochs: the base learning rate is never reached"] if late else []


def _check_warmup(warmup_epochs: float) -> None:
    if warmup_epochs < 0:
        raise OptionError("warmup_epochs", "must not be negative", found=warmup_epochs, allowed="0 or more epochs")
