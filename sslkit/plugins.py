"""Entry points -> :class:`Catalog`: which plugins there are, what they offer, and what is wrong with those that do not load."""

import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from sslkit import hookspecs
from sslkit.errors import PluginError, SslkitError, did_you_mean
from sslkit.events import Observer
from sslkit.interfaces import Backbone, Dataset, Evaluator, OptimizerFactory, PretextTask, Schedule

__all__ = ["KINDS", "Catalog", "Kind", "PluginInfo", "load_catalog"]

GROUP = "sslkit"
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
    "datasets": Kind(Dataset, "data set"),
    "optimizers": Kind(OptimizerFactory, "optimizer"),
    "schedules": Kind(Schedule, "schedule"),
    "observers": Kind(Observer, "observer"),
}
"""By the name of the hook."""

Classes = dict[str, dict[str, type]]
"""``{kind: {name: class}}``."""


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """One entry point, whether it works or not.

    Attributes:
        name: the entry point's name, which ``SSLKIT_DISABLE_PLUGINS`` knows it by.
        distribution: the distribution that declares it.
        version: the distribution's version.
        offers: by kind, the names that it offers.
        error: one line on why it cannot be used, or None.
        disabled: whether ``SSLKIT_DISABLE_PLUGINS`` names it; it was not imported then.
    """

    name: str
    distribution: str
    version: str
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None
    disabled: bool = False

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
        plugins: every plugin found, also broken and disabled ones.
        offers: every class offered, also under names that collide.
    """

    plugins: tuple[PluginInfo, ...] = ()
    offers: tuple[Offer, ...] = ()

    @classmethod
    def of(cls, **kinds: Mapping[str, type]) -> "Catalog":
        """Build one from classes: ``Catalog.of(pretext_tasks={"flips": Flips}, backbones={...})``.

        Raises:
            PluginError: a kind does not exist, or something is not a class of its kind.
        """
        for kind in kinds:
            if kind not in KINDS:
                raise PluginError(f"{kind!r} is no kind of class", allowed=KINDS, fix=did_you_mean(kind, KINDS))
        offers = [
            Offer(kind, name, offered, None) for kind, classes in kinds.items() for name, offered in _checked(kind, dict(classes)).items()
        ]
        return cls(offers=tuple(offers))

    def names(self, kind: str) -> tuple[str, ...]:
        """The names offered for one kind, sorted."""
        return tuple(sorted({offer.name for offer in self.offers if offer.kind == kind}))

    def find(self, kind: str, name: str) -> type:
        """Look a class up by its name, or import it.

        Args:
            kind: a key of ``KINDS``.
            name: a name from ``names(kind)``, or ``package.module:Class``. The module may lie in the current folder: that is put
                on ``sys.path``, as ``python -m`` does, and stays there for what the module imports later.

        Raises:
            PluginError: no plugin offers the name, or two do; the module cannot be imported; it holds no such class.
        """
        if ":" in name:
            return _import_class(kind, name)
        found = self._offers_of(kind, name)
        if not found:
            raise self._unknown(kind, name)
        if len(found) > 1:
            raise PluginError(
                f"{KINDS[kind].noun} {name!r} is offered by {' and by '.join(str(offer.plugin) for offer in found)}",
                fix=f"write {' or '.join(repr(_address(offer.cls)) for offer in found)}, or switch a plugin off with SSLKIT_DISABLE_PLUGINS",
            )
        return found[0].cls

    def owner(self, cls: type) -> PluginInfo | None:
        """The plugin that offers ``cls``; None where none does."""
        return next((offer.plugin for offer in self.offers if offer.cls is cls), None)

    def spec_of(self, cls: type) -> str:
        """How a recipe names ``cls``: its name where that is unambiguous, else ``package.module:Class``."""
        names = [offer.name for offer in self.offers if offer.cls is cls and len(self._offers_of(offer.kind, offer.name)) == 1]
        return min(names, default=_address(cls))

    def _offers_of(self, kind: str, name: str) -> list[Offer]:
        return [offer for offer in self.offers if (offer.kind, offer.name) == (kind, name)]

    def _unknown(self, kind: str, name: str) -> PluginError:
        """The error for a name that nobody offers. It may be a plugin's that is broken or disabled, so those are part of it."""
        names = self.names(kind)
        hints = [did_you_mean(name, names)]
        hints += [f"{name!r} is {KINDS[other].one}" for other in KINDS if name in self.names(other)]
        hints += [f"disabled plugin: {plugin}" for plugin in self.plugins if plugin.disabled]
        hints += [f"broken plugin: {plugin}: {plugin.error}" for plugin in self.plugins if plugin.error]
        hints = [hint for hint in hints if hint] or ["a class of your own is written 'package.module:Class'"]
        return PluginError(f"no {KINDS[kind].noun} is called {name!r}", allowed=names or "none is installed", fix="; ".join(hints))


def load_catalog() -> Catalog:
    """Load every plugin there is. A broken one is listed with its reason and never takes the others down.

    ``SSLKIT_DISABLE_PLUGINS=a,b`` leaves plugins out by the name of their entry point. ``SSLKIT_STRICT_PLUGINS=1`` raises what a
    broken plugin raised, for its author.
    """
    disabled = {name.strip() for name in os.environ.get("SSLKIT_DISABLE_PLUGINS", "").split(",")}
    strict = os.environ.get("SSLKIT_STRICT_PLUGINS", "") not in ("", "0")
    plugins: list[PluginInfo] = []
    offers: list[Offer] = []
    # Our own loop: pluggy's load_setuptools_entrypoints stops at the first plugin that fails and drops a second one of the same name.
    for entry in importlib.metadata.entry_points(group=GROUP):
        plugin, classes = _load(entry, disabled=entry.name in disabled, strict=strict)
        plugins.append(plugin)
        offers += [Offer(kind, name, cls, plugin) for kind, named in classes.items() for name, cls in named.items()]
    # The order of entry points is that of sys.path: it must not show.
    return Catalog(tuple(sorted(plugins, key=str)), tuple(sorted(offers, key=lambda offer: (offer.kind, offer.name, str(offer.plugin)))))


def _load(entry: EntryPoint, *, disabled: bool, strict: bool) -> tuple[PluginInfo, Classes]:
    """Load one plugin, or find out why it cannot be loaded."""
    distribution, version = _origin(entry)
    if disabled:
        return PluginInfo(name=entry.name, distribution=distribution, version=version, disabled=True), {}
    try:
        classes = _classes_of(entry.load(), entry.name)
    except (Exception, SystemExit) as error:  # a plugin that exits on import must not end the command
        if strict:
            error.add_note(f"raised by the plugin {entry.name!r} of {distribution} {version}")
            raise
        return PluginInfo(name=entry.name, distribution=distribution, version=version, error=_one_line(error)), {}
    offers = {kind: tuple(sorted(named)) for kind, named in classes.items()}
    return PluginInfo(name=entry.name, distribution=distribution, version=version, offers=offers), classes


def _origin(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that declares an entry point; its metadata may be damaged."""
    try:
        return (entry.dist and entry.dist.name) or "unknown distribution", (entry.dist and entry.dist.version) or ""
    except Exception:
        return "unknown distribution", ""


def _classes_of(plugin: object, name: str) -> Classes:
    """Ask one plugin for its classes.

    Each has a manager of its own, thrown away afterwards: pluggy up to 1.6 leaves a plugin that failed validation half registered,
    an unknown hook would be reported again for the next plugin, and one that raises would stop the call of the others.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    hooks = manager.get_hookcallers(plugin)
    if not hooks:
        raise PluginError("the plugin has no hook: nothing in it is marked with @hookimpl", allowed=KINDS)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = next(hook.name for hook in hooks if hook.name not in KINDS)
        raise PluginError(f"unknown hook {unknown!r}", allowed=KINDS, fix=did_you_mean(unknown, KINDS)) from error
    classes: Classes = {}
    for kind in KINDS:
        for offered in _results(getattr(manager.hook, kind)):
            _merge(classes.setdefault(kind, {}), _checked(kind, offered), kind)
    return {kind: named for kind, named in classes.items() if named}


def _results(hook: pluggy.HookCaller) -> Iterator[object]:
    """What each implementation of a hook returns. Called one by one: pluggy's own call drops a forgotten ``return``."""
    for impl in hook.get_hookimpls():
        if impl.wrapper or impl.hookwrapper:
            raise PluginError(f"hook {hook.name} must not be a wrapper", fix="write @hookimpl without arguments")
        # pluggy's versions differ on parameters with defaults (before 1.7 they were not passed), so none are allowed.
        if parameters := list(inspect.signature(impl.function).parameters):
            raise PluginError(f"hook {hook.name} takes no arguments", found=", ".join(parameters))
        yield impl.function()


def _merge(classes: dict[str, type], offered: dict[str, type], kind: str) -> None:
    for name, cls in offered.items():
        if name in classes:
            raise PluginError(f"{KINDS[kind].noun} {name!r} is offered twice by the same plugin")
        classes[name] = cls


def _checked(kind: str, offered: Any) -> dict[str, type]:
    """``{name: class}`` as a hook returned it, or an error."""
    if not isinstance(offered, dict):
        raise PluginError(f"hook {kind} must return a dict of names and classes", found=offered)
    for name, cls in offered.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise PluginError(f"a {KINDS[kind].noun} has a name that cannot be used", found=name, allowed="letters, digits, _ and -")
        if name in RESERVED_NAMES:
            raise PluginError(f"a {KINDS[kind].noun} has a reserved name", found=name, fix="choose another")
        _check_class(kind, cls, f"{KINDS[kind].noun} {name!r}")
    return offered


def _check_class(kind: str, cls: object, what: str) -> None:
    base = KINDS[kind].cls
    if not isinstance(cls, type):
        raise PluginError(f"{what} must be a class", found=cls, fix=f"a subclass of {base.__name__}, not an object")
    if not issubclass(cls, base):
        raise PluginError(f"{what} must be a subclass of {base.__name__}", found=cls)
    if inspect.isabstract(cls):
        raise PluginError(f"{what} is abstract", found=cls, fix=f"it lacks {', '.join(sorted(cls.__abstractmethods__))}")


def _import_class(kind: str, spec: str) -> type:
    """Import ``package.module:Class``."""
    module_name, _, qualname = spec.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}.")
        why = "it is neither installed nor in the current folder" if missing else _one_line(error)
        raise PluginError(f"{spec!r} cannot be imported", fix=why) from error
    for part in qualname.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{spec!r} does not exist: {module_name} has no {qualname!r}", fix=did_you_mean(part, dir(found)))
        found = getattr(found, part)
    _check_class(kind, found, repr(spec))
    return found


def _address(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _one_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, SslkitError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")
