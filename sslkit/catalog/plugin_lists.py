"""``SSLKIT_ALLOW_PLUGINS`` and ``SSLKIT_DISABLE_PLUGINS``: which entry points may be imported."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sslkit.contract.errors import did_you_mean

ALLOW = "SSLKIT_ALLOW_PLUGINS"
DISABLE = "SSLKIT_DISABLE_PLUGINS"


class Entry(NamedTuple):
    """An entry point, by its name and the distribution that declares it."""

    name: str
    distribution: str

    def is_meant_by(self, item: str) -> bool:
        """Whether an item of a list is the entry point's name, or ``distribution:name``."""
        distribution, _, name = item.rpartition(":")
        return name == self.name and (not distribution or _normalized(distribution) == _normalized(self.distribution))


@dataclass(frozen=True)
class PluginLists:
    """What the environment says about plugins.

    Attributes:
        disabled: items that are not imported.
        allowed: the only items that are imported, beside sslkit's own; None: all are.
    """

    disabled: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> "PluginLists":
        """Read both variables. An empty ``SSLKIT_ALLOW_PLUGINS`` is a list too: of nothing."""
        return cls(_items(environ.get(DISABLE, "")), _items(environ[ALLOW]) if ALLOW in environ else None)

    def disables(self, entry: Entry) -> bool:
        """Whether an entry point is switched off."""
        return any(entry.is_meant_by(item) for item in self.disabled)

    def allows(self, entry: Entry, *, own: bool) -> bool:
        """Whether an entry point may be imported as far as the list of allowed ones goes; sslkit's own always may."""
        return own or self.allowed is None or any(entry.is_meant_by(item) for item in self.allowed)

    def notes(self, entries: Collection[Entry]) -> tuple[str, ...]:
        """A sentence for each item that means nothing that is installed: it may be a typing error, and then something is not as wished."""
        lists = {DISABLE: self.disabled, ALLOW: self.allowed or ()}
        known = dict.fromkeys(name for entry in entries for name in (entry.name, f"{entry.distribution}:{entry.name}"))
        return tuple(
            "; ".join(filter(None, (f"{variable} names {item!r}, which no installed plugin has", did_you_mean(item, known))))
            for variable, items in lists.items()
            for item in items
            if not any(entry.is_meant_by(item) for entry in entries)
        )


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _normalized(distribution: str) -> str:
    """One spelling of a distribution's name: ``sslkit_flips`` and ``SSLkit-Flips`` are the same."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
