"""How weights are updated: optimizers and learning-rate schedules."""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from sslkit.contract.checks import Checked, Contract


class OptimizerFactory(Checked, Contract):
    """The options of an optimizer (``optimizer`` in a recipe); a final frozen dataclass with a field ``lr``."""

    @abstractmethod
    def build(self, groups: list[dict]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            groups: torch's parameter groups. Start each at the base rate: the loop multiplies it by the group's ``lr_scale`` and
                by the schedule before each step, and moves its ``weight_decay``, along half a cosine, to its ``final_weight_decay`` if it
                has one.

        Returns:
            The optimizer of exactly these parameters. All of its state must be in its ``state_dict``: that is what a checkpoint holds.
        """


class Schedule(Checked, Contract):
    """How the learning rate changes (``schedule`` in a recipe): a pure function of the epoch; a final frozen dataclass."""

    @abstractmethod
    def scale(self, epoch: float, num_epochs: float) -> float:
        """The factor on the base learning rate after ``epoch`` of ``num_epochs`` epochs (fractions of an epoch count)."""

    def notes(self, num_epochs: float) -> Sequence[str]:
        """What is probably not meant where training has ``num_epochs`` epochs, a sentence each that begins with the option's name."""
        return ()
