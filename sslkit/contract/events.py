"""What a run tells its observers, who cannot change training."""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from sslkit.contract.checks import Contract
from sslkit.contract.errors import SslkitWarning


class _ReadOnly(dict[str, float]):
    """A read-only copy. Still a dictionary, which JSON and pickle take; ``dict(metrics)`` can be changed."""

    def _refuse(self, *_args: object, **_options: object) -> NoReturn:
        raise TypeError("the values of an event are read-only: change a copy, dict(event.metrics)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a stage. Its values are read-only: an observer changes nothing that a run continues with."""

    stage: str

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                object.__setattr__(self, name, _ReadOnly(value))


@dataclass(frozen=True, kw_only=True)
class DataFound(Event):
    """What a run's data holds, before the first stage: ``stage`` is empty, or the first one with this data of its own. ``splits`` describes
    each split that stages use.
    """

    splits: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StageStart(Event):
    """A stage begins, or resumes where it was interrupted."""

    kind: str
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class StageSkipped(Event):
    """A stage was finished by an earlier start with the same fingerprint."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FitStart(Event):
    """A training loop begins. ``part`` names the fit where a stage has several (``k20``), and is empty where it has one.

    ``step`` is where it begins: 0, or the step of the checkpoint that it resumes from. ``measured`` says that held-out images, where they
    are due at that step, were measured before, and are not measured again.
    """

    part: str
    step: int
    num_steps: int
    num_epochs: int
    measured: bool = False


@dataclass(frozen=True, kw_only=True)
class StepEnd(Event):
    """An optimizer step ended. ``metrics`` is empty except once every ``log_every`` steps."""

    part: str
    step: int
    epoch: float
    num_images: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class HeldoutEnd(Event):
    """Held-out images were measured after ``step`` steps."""

    part: str
    step: int
    epoch: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FeaturesMeasured(Event):
    """The features were measured after ``step`` steps of a pretraining: whether they collapse (``collapse.<name>.std`` and the like), or
    how good they are (``quality.rankme`` ...).
    """

    part: str
    step: int
    epoch: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is on disk, whole."""

    part: str
    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something the user should know that is no error: skipped files, a slow setting."""

    message: str


@dataclass(frozen=True, kw_only=True)
class StageEnd(Event):
    """A stage is finished and its artifact is on disk."""

    metrics: Mapping[str, float]
    seconds: float


class Observer(Contract):
    """Watches a run: a progress bar, a log file, TensorBoard. Concrete observers are frozen dataclasses of options.

    An observer that raises is left out from there on, with a notice: watching a run never takes it down.

    Attributes:
        shows_notices: whether it shows every :class:`Notice` to a person. Where no observer does, notices become Python warnings of the
            class ``SslkitWarning``.
    """

    shows_notices: ClassVar[bool] = False

    @abstractmethod
    def observe(self, event: Event) -> None:
        """Take note of ``event``. Called in the training process, between steps: be quick."""


class Record(Observer):
    """An observer that is part of the run: it writes a record, or passes events on. What goes wrong in it is an error of the run."""


def warn(message: str) -> None:
    """A notice where no observer listens: a Python warning that points to the first line that is not sslkit's."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "sslkit":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SslkitWarning, stacklevel=level + 1)


Emit = Callable[[Event], None]


def tell_nobody(event: Event) -> None:
    """Tell nobody; notices become Python warnings."""
    if isinstance(event, Notice):
        warn(event.message)
