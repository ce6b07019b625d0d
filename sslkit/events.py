"""What a run tells its observers. Events observe; nothing they do can change training."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sslkit.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a stage."""

    stage: str


@dataclass(frozen=True, kw_only=True)
class DataFound(Event):
    """What a run's data holds, told before the first stage; ``stage`` is empty. ``splits`` describes each split that stages use."""

    splits: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StageStart(Event):
    """A stage begins, or goes on where it was interrupted."""

    kind: str
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class StageSkipped(Event):
    """A stage was finished by an earlier start with the same fingerprint."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FitStart(Event):
    """A training loop begins. ``part`` names the fit where a stage has several (``k20``), and is empty where it has one.

    ``step`` is where it begins: 0, or the step of the checkpoint that it resumes from. ``measured`` says that held-out images were
    measured at that step before, where they had to be, and that this does not come again.
    """

    part: str
    step: int
    num_steps: int
    num_epochs: int
    measured: bool = False


@dataclass(frozen=True, kw_only=True)
class StepEnd(Event):
    """An optimiser step ended. ``metrics`` is empty except once every ``log_every`` steps."""

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


class Observer(ABC):
    """Watches a run: a progress bar, a log file, TensorBoard. Concrete observers are frozen dataclasses of options.

    An observer that raises is dropped with a warning: watching a run never takes it down.
    """

    @abstractmethod
    def observe(self, event: Event) -> None:
        """Take note of ``event``. Called in the training process, between steps: be quick."""


class Observers:
    """Passes events on to several observers; one that raises is dropped with a warning, and the run goes on."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def emit(self, event: Event) -> None:
        """Tell everyone.

        Raises:
            StorageError: an observer of the run's own records could not write to the run's folder.
        """
        for observer in list(self._observers):
            try:
                observer.observe(event)
            except StorageError:  # what the run keeps of itself cannot be written: nothing else could be either
                raise
            except Exception as error:
                self._observers.remove(observer)
                warnings.warn(f"observer {type(observer).__name__} failed and is dropped: {error!r}", RuntimeWarning, stacklevel=2)


Emit = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Tell nobody."""
