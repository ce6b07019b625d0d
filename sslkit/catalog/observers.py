"""Observers of a run: notified of everything, and kept from changing anything."""

from collections.abc import Iterable
from typing import Any

import torch
from typing_extensions import override

from sslkit.catalog.shared_state import GENERATORS, kept_state
from sslkit.contract.class_address import one_line, package_of, provenance_of
from sslkit.contract.errors import OptionError
from sslkit.contract.events import Event, Notice, Observer, Record, warn


class Observers(Record):
    """Passes events on to several observers. One that raises is left out from there on, and the run continues; another ``Observers``
    among them shows its notices itself.
    """

    shows_notices = True

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers: list[Any] = list(observers) if isinstance(observers, Iterable) else [observers]
        if not all(isinstance(observer, Observer) for observer in self._observers):
            raise OptionError("observers", "must be a list of observers", found=observers)
        self._noted: list[Observer] = []

    @classmethod
    def of(cls, observers: "Iterable[Observer] | Observers") -> "Observers":
        """Those that are collected already, or observers that are not."""
        return observers if isinstance(observers, Observers) else cls(observers)

    @override
    def observe(self, event: Event) -> None:
        for observer in list(self._observers):
            try:
                self._tell(observer, event)
            except KeyboardInterrupt:  # the user wants to stop at once
                raise
            except BaseException as error:  # also one that exits
                if isinstance(observer, Record):
                    raise
                self._observers.remove(observer)
                failed = f"{provenance_of(type(observer))} failed at {type(event).__name__} and is left out: {one_line(error)}"
                self.observe(Notice(stage=event.stage, message=f"observer {failed}"))
        if isinstance(event, Notice) and not any(observer.shows_notices for observer in self._observers):
            warn(event.message)

    def _tell(self, observer: Observer, event: Event) -> None:
        """What foreign observers set or draw is restored, so that watching changes neither dropout nor a later stage."""
        if package_of(type(observer).__module__) == "sslkit":  # sets and draws nothing, and to look after it in every step takes time
            observer.observe(event)
            return
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []), kept_state() as changed:
            observer.observe(event)
        named = [name for name in changed if name not in GENERATORS]
        if named and observer not in self._noted:
            self._noted.append(observer)
            text = f"observer {provenance_of(type(observer))} changed {', '.join(named)} at {type(event).__name__}: put back, as after each event"
            self.observe(Notice(stage=event.stage, message=text))
