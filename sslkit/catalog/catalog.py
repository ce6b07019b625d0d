"""What a recipe can name: kinds of classes, and the :class:`Catalog` of those that plugins offer."""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sslkit.catalog.shared_state import loading
from sslkit.contract.backbone import Backbone
from sslkit.contract.class_address import address_of, one_line, package_of, source_of
from sslkit.contract.errors import PluginError, did_you_mean
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import Dataset, ImageDecoder
from sslkit.contract.objective import PretextTask
from sslkit.contract.training import OptimizerFactory, Schedule

OWN = "sslkit"  # our own distribution

CODE_FIX = "if you trust it: --allow-code, in Python allow_code=True"

RESERVED_NAMES = frozenset({"name", "none", "random"})
"""Words that mean something else in a recipe: the key of a class's own name, nothing at all, and untrained weights."""


class Kind(NamedTuple):
    """What a hook offers: subclasses of ``cls``, which messages call a ``noun``."""

    cls: type
    noun: str

    @property
    def one(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"


KINDS: dict[str, Kind] = {
    "pretext_tasks": Kind(PretextTask, "pretext task"),
    "backbones": Kind(Backbone, "backbone"),
    "evaluators": Kind(Evaluator, "evaluator"),
    "datasets": Kind(Dataset, "dataset"),
    "decoders": Kind(ImageDecoder, "decoder"),
    "optimizers": Kind(OptimizerFactory, "optimizer"),
    "schedules": Kind(Schedule, "schedule"),
    "observers": Kind(Observer, "observer"),
}
"""By the name of the hook."""

Classes = dict[str, dict[str, type]]
"""``{kind: {name: class}}``."""


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """One entry point, whether it works or not. One that is disabled or not allowed was not imported."""

    name: str  # the entry point's, which SSLKIT_DISABLE_PLUGINS and SSLKIT_ALLOW_PLUGINS use
    distribution: str
    version: str  # of the distribution
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names by kind
    error: str | None = None  # one line on why it cannot be used
    disabled: bool = False
    allowed: bool = True  # False where SSLKIT_ALLOW_PLUGINS is set and lacks it
    package: str = ""  # the top-level package that it was loaded from
    changed: tuple[str, ...] = ()  # the shared state that it changed when it was loaded, and that was restored

    @property
    def state(self) -> Literal["loaded", "broken", "disabled", "not allowed"]:
        """What became of it. Some code of a broken one may have run."""
        if self.disabled or not self.allowed:
            return "disabled" if self.disabled else "not allowed"
        return "broken" if self.error else "loaded"

    @property
    def is_own(self) -> bool:
        """Whether it belongs to sslkit's own distribution."""
        return self.distribution == OWN

    def __str__(self) -> str:
        return f"{self.name} ({f'{self.distribution} {self.version}'.strip()})"


class Offer(NamedTuple):
    """One name of one plugin; ``plugin`` is None for a class handed over in Python."""

    kind: str
    name: str
    cls: type
    plugin: PluginInfo | None


@dataclass(frozen=True)
class Catalog:
    """The classes that a recipe can name. A value: it is passed to whoever needs it, and tests build one by hand.

    Attributes:
        plugins: every plugin found, also broken and disabled ones, and those that are not allowed.
        offers: every class offered, also under names that collide.
        notes: what is odd about the plugins, and the lists of them in the environment, a sentence each.
        allow_code: whether any ``package.module:Class`` may be imported, or only what plugins bring along.
    """

    plugins: tuple[PluginInfo, ...] = ()
    offers: tuple[Offer, ...] = ()
    notes: tuple[str, ...] = ()
    allow_code: bool = False

    @classmethod
    def of(cls, **kinds: Mapping[str, type]) -> "Catalog":
        """Build one from classes: ``Catalog.of(pretext_tasks={"flips": Flips}, backbones={...})``.

        Raises:
            PluginError: a kind does not exist, or something is not a class of its kind.
        """
        for kind in kinds:
            if kind not in KINDS:
                raise PluginError(f"{kind!r} is not a kind of class", allowed=KINDS, fix=did_you_mean(kind, KINDS))
        offers = [
            Offer(kind, name, offered, None) for kind, classes in kinds.items() for name, offered in checked(kind, dict(classes)).items()
        ]
        return cls(offers=tuple(offers))

    def names(self, kind: str) -> tuple[str, ...]:
        """The names offered for one kind, sorted."""
        return tuple(sorted({offer.name for offer in self.offers if offer.kind == kind}))

    def find(self, kind: str, name: str) -> type:
        """Look a class up by its name, or import it.

        Args:
            kind: a key of ``KINDS``.
            name: a name from ``names(kind)``, or ``package.module:Class``.

        Raises:
            PluginError: no plugin offers the name, or two do; importing the class is not allowed; it cannot be imported, or is none.
        """
        if ":" in name:
            if refusal := self.refusal(name):
                raise refusal
            cls = self._offered_at(name) or import_class(name)
            check_class(kind, cls, repr(name))
            return cls
        found = self._offers_of(kind, name)
        if not found:
            raise self._unknown(kind, name)
        if len(found) > 1:
            raise PluginError(
                f"{KINDS[kind].noun} {name!r} is offered by {' and by '.join(str(offer.plugin) for offer in found)}",
                fix=f"write {' or '.join(repr(address_of(offer.cls)) for offer in found)}, or switch a plugin off with SSLKIT_DISABLE_PLUGINS",
            )
        return found[0].cls

    def is_outside(self, spec: str) -> bool:
        """Whether ``package.module:Class`` is more than another spelling for a class that a plugin offers: it is imported then."""
        return self._offered_at(spec) is None

    def refusal(self, spec: str) -> PluginError | None:
        """Why ``package.module:Class`` may not be imported; None where it may.

        Without ``allow_code``, only code of a package from which a plugin was loaded may: that was imported before anybody asked. Of
        sslkit itself, only the classes that it offers.
        """
        if self.allow_code or not self.is_outside(spec) or package_of(spec) in {plugin.package for plugin in self.plugins} - {"", OWN}:
            return None
        source = source_of(spec)
        return PluginError(f"{spec!r} is code outside the catalog{f', from {source}' if source else ''}", fix=CODE_FIX)

    def owner(self, cls: type) -> PluginInfo | None:
        """The plugin that offers ``cls``; None where none does."""
        return next((offer.plugin for offer in self.offers if offer.cls is cls), None)

    def spec_of(self, cls: type) -> str:
        """How a recipe names ``cls``: its name where that is unambiguous, else ``package.module:Class``."""
        names = [offer.name for offer in self.offers if offer.cls is cls and len(self._offers_of(offer.kind, offer.name)) == 1]
        return min(names, default=address_of(cls))

    def _offered_at(self, spec: str) -> type | None:
        return next((offer.cls for offer in self.offers if address_of(offer.cls) == spec), None)

    def _offers_of(self, kind: str, name: str) -> list[Offer]:
        return [offer for offer in self.offers if (offer.kind, offer.name) == (kind, name)]

    def _unknown(self, kind: str, name: str) -> PluginError:
        """The error for a name that nobody offers. It may be a plugin's that is broken or disabled, so those are part of it."""
        names = self.names(kind)
        hints = [did_you_mean(name, names)]
        hints += [f"{name!r} is {KINDS[other].one}" for other in KINDS if name in self.names(other)]
        hints += [f"disabled plugin: {plugin}" for plugin in self.plugins if plugin.state == "disabled"]
        hints += [f"plugin that is not on SSLKIT_ALLOW_PLUGINS: {plugin}" for plugin in self.plugins if plugin.state == "not allowed"]
        hints += [f"broken plugin: {plugin}: {plugin.error}" for plugin in self.plugins if plugin.error]
        hints = [hint for hint in hints if hint] or ["a class of your own is written 'package.module:Class'"]
        return PluginError(f"no {KINDS[kind].noun} is called {name!r}", allowed=names or "none is installed", fix="; ".join(hints))


def checked(kind: str, offered: Any) -> dict[str, type]:
    """``{name: class}`` as a hook returned it, or an error."""
    if not isinstance(offered, dict):
        raise PluginError(f"hook {kind} must return a dict of names and classes", found=offered)
    for name, cls in offered.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise PluginError(f"a {KINDS[kind].noun} has a name that cannot be used", found=name, allowed="letters, digits, _ and -")
        if name in RESERVED_NAMES:
            raise PluginError(f"a {KINDS[kind].noun} has a reserved name", found=name, fix="choose another")
        check_class(kind, cls, f"{KINDS[kind].noun} {name!r}")
    return offered


def check_class(kind: str, cls: object, what: str) -> None:
    """Refuse what is no concrete class of its kind."""
    base = KINDS[kind].cls
    if not isinstance(cls, type):
        raise PluginError(f"{what} must be a class", found=cls, fix=f"a subclass of {base.__name__}, not an object")
    if not issubclass(cls, base):
        raise PluginError(f"{what} must be a subclass of {base.__name__}", found=cls)
    if inspect.isabstract(cls):
        raise PluginError(f"{what} is abstract", found=cls, fix=f"it lacks {', '.join(sorted(cls.__abstractmethods__))}")


def import_class(spec: str) -> Any:
    """Import what an address names, whatever it is.

    What the module changes of the state that all code shares is restored. If it is in the current folder, that is put on ``sys.path``, as
    ``python -m`` does, and stays there for what the module imports later.
    """
    module_name, _, qualname = spec.partition(":")
    folder, package = str(Path.cwd()), package_of(spec)
    if package.isidentifier() and package not in sys.modules and folder not in sys.path and PathFinder.find_spec(package, [folder]):
        sys.path.insert(0, folder)
    try:
        with loading(module_name):
            found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}.")
        why = "it is neither installed nor in the current folder" if missing else one_line(error)
        raise PluginError(f"{spec!r} cannot be imported", fix=why) from error
    for depth, name in enumerate(qualname.split(".")):
        if depth and not isinstance(found, type):  # a class may hold another; the attributes of anything else are no business of a recipe
            break
        if not hasattr(found, name):
            raise PluginError(f"{spec!r} does not exist: {module_name} has no {qualname!r}", fix=did_you_mean(name, dir(found)))
        found = getattr(found, name)
    return found
