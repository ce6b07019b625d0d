"""How thorough an audit is."""

from dataclasses import dataclass
from typing import final

from sslkit.audit.sources import SOURCES
from sslkit.contract.errors import OptionError, did_you_mean

MIN_HELDOUT = 100
"""Images; fewer say nothing of chance."""


@final
@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How thorough an audit is.

    Attributes:
        sources: what the images are made of.
        num_images: to train on, of each source; half as many are held out.
        epochs: passes over them.
        seed: of all randomness.
    """

    sources: tuple[str, ...] = SOURCES
    num_images: int = 4096
    epochs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for source in self.sources:
            if source not in SOURCES:
                raise OptionError("source", "does not exist", found=source, allowed=SOURCES, fix=did_you_mean(source, SOURCES))
        if self.num_images < 2 * MIN_HELDOUT:
            raise OptionError("num_images", "too few to tell from chance", found=self.num_images, allowed=f"{2 * MIN_HELDOUT} or more")
        if self.epochs < 1:
            raise OptionError("epochs", "must be positive", found=self.epochs, allowed="1 or more")
