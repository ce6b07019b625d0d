"""Entry points -> :class:`Catalog`: which plugins there are, what they offer, and what is wrong with those that do not load."""

import importlib.metadata
import inspect
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint

import pluggy

from sslkit.catalog import hooks as hookspecs
from sslkit.catalog.catalog import KINDS, Catalog, Classes, Offer, PluginInfo, checked
from sslkit.catalog.plugin_lists import Entry, PluginLists
from sslkit.catalog.shared_state import loading
from sslkit.contract.class_address import file_of, one_line, package_of
from sslkit.contract.errors import PluginError, did_you_mean

GROUP = "sslkit"
UNKNOWN = "unknown distribution"


def load_catalog(*, allow_code: bool = False) -> Catalog:
    """Load every plugin there is. A broken one is listed with its reason and never takes the others down; what one changes of the state
    that all code shares, such as torch's defaults, is put back and noted.

    ``SSLKIT_ALLOW_PLUGINS=a,b`` and ``SSLKIT_DISABLE_PLUGINS=a,b`` say which are imported at all. ``SSLKIT_STRICT_PLUGINS=1`` raises
    what a broken plugin raised, for its author, and refuses names in the two lists that no installed plugin has.

    Args:
        allow_code: let recipes import any ``package.module:Class``. Only for recipes you trust.

    Raises:
        PluginError: with ``SSLKIT_STRICT_PLUGINS``, a list names what is not installed; nothing was imported.
    """
    strict = os.environ.get("SSLKIT_STRICT_PLUGINS", "") not in ("", "0")
    lists = PluginLists.of()
    found = [(point, _origin(point)) for point in importlib.metadata.entry_points(group=GROUP)]
    notes = lists.notes([Entry(point.name, info.distribution) for point, info in found])
    if strict and notes:
        raise PluginError("; ".join(notes))
    plugins: list[PluginInfo] = []
    offers: list[Offer] = []
    # Our own loop: pluggy's load_setuptools_entrypoints stops at the first plugin that fails and drops a second one of the same name.
    for point, info in found:
        plugin, classes = _load(point, _judged(info, lists), strict=strict)
        plugins.append(plugin)
        offers += [Offer(kind, name, cls, plugin) for kind, named in classes.items() for name, cls in named.items()]
    # The order of entry points is that of sys.path: it must not show.
    plugins.sort(key=str)
    offers.sort(key=lambda offer: (offer.kind, offer.name, str(offer.plugin)))
    return Catalog(tuple(plugins), tuple(offers), (*notes, *_changes(plugins)), allow_code)


def _changes(plugins: Iterable[PluginInfo]) -> Iterator[str]:
    """What plugins would have changed for everybody by being installed."""
    for plugin in plugins:
        if plugin.changed:
            yield f"plugin {plugin} changed {', '.join(plugin.changed)} when it was loaded: put back"


def _judged(info: PluginInfo, lists: PluginLists) -> PluginInfo:
    entry = Entry(info.name, info.distribution)
    return replace(info, disabled=lists.disables(entry), allowed=lists.allows(entry, own=info.is_own))


def _load(point: EntryPoint, info: PluginInfo, *, strict: bool) -> tuple[PluginInfo, Classes]:
    """Load one plugin that may be loaded, or find out why it cannot be."""
    if info.state != "loaded":
        return info, {}
    changed: list[str] = []
    try:
        with loading(point.value.partition(":")[0].strip()) as changed:
            classes = _classes_of(point.load(), point.name)
    except (Exception, SystemExit) as error:  # a plugin that exits on import must not end the command
        if strict:
            error.add_note(f"raised by the plugin {point.name!r} of {info.distribution} {info.version}")
            raise
        return replace(info, error=one_line(error), changed=tuple(changed)), {}
    offers = {kind: tuple(sorted(named)) for kind, named in classes.items()}
    package = package_of(point.value)
    # A namespace package is shared by distributions that know nothing of each other, so none stands for the whole.
    return replace(info, offers=offers, package=package if file_of(package) else "", changed=tuple(changed)), classes


def _origin(point: EntryPoint) -> PluginInfo:
    """An entry point, and the distribution that declares it, whose metadata may be damaged."""
    try:
        distribution, version = (point.dist and point.dist.name) or UNKNOWN, (point.dist and point.dist.version) or ""
    except Exception:
        distribution, version = UNKNOWN, ""
    return PluginInfo(name=point.name, distribution=distribution, version=version)


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
            _merge(classes.setdefault(kind, {}), checked(kind, offered), kind)
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
