"""Observers that remember what they are told, and the options of a run or a stage that is asked to stop."""

from collections.abc import Iterable
from typing import Any

from sslkit import Event, Notice, Observer, StepEnd


class Recorder(Observer):
    """Keeps every event, or those of some kinds."""

    def __init__(self, *kinds: type[Event]) -> None:
        self.events: list[Any] = []
        self._kinds = kinds or (Event,)

    def observe(self, event: Event) -> None:
        if isinstance(event, self._kinds):
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def stages(self, kind: type[Event]) -> list[str]:
        return [event.stage for event in self.of(kind)]

    def messages(self) -> list[str]:
        """Of the notices."""
        return [event.message for event in self.of(Notice)]


def stop_after(steps: int, observers: Iterable[Observer] = ()) -> dict[str, Any]:
    """Ask to stop after so many steps, of whatever stages."""
    counter = Recorder(StepEnd)
    return {"observers": [counter, *observers], "should_stop": lambda: len(counter.events) >= steps}
