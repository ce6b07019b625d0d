"""Entry points -> :class:`Catalog`: which plugins there are, what they offer, and what is wrong with those that do not load.

A plugin is a module (or another object) behind an entry point of the group ``sslkit``. It offers classes by returning them::

    from sslkit import hookimpl

    @hookimpl
    def pretext_tasks():
        return {"flips": Flips}

and in its ``pyproject.toml``::

    [project.entry-points.sslkit]
    flips = "sslkit_flips"

No hook takes arguments, and each is called once, at start-up. A name consists of letters, digits, ``_`` and ``-``. It is what a recipe
writes as ``name = "flips"``; the other keys of that table are the options of the class. Two plugins may offer the same name: using it
is then an error that names both. ``@hookimpl(specname="pretext_tasks")`` lets a function have another name than its hook.
"""

import importlib.metadata
import inspect
import os
import re
from dataclasses import replace
from importlib.metadata import EntryPoint

import pluggy

from sslkit.catalog.catalog import KINDS, Catalog, Classes, Offer, PluginInfo, checked
from sslkit.catalog.shared_state import loading
from sslkit.contract.backbone import Backbone
from sslkit.contract.class_address import file_of, one_line, package_of
from sslkit.contract.errors import PluginError, did_you_mean
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import Dataset, ImageDecoder
from sslkit.contract.objective import PretextTask
from sslkit.contract.training import OptimizerFactory, Schedule

GROUP = "sslkit"
ALLOW, DISABLE, STRICT = "SSLKIT_ALLOW_PLUGINS", "SSLKIT_DISABLE_PLUGINS", "SSLKIT_STRICT_PLUGINS"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin as the implementation of the hook that it is named for."""


class Hooks:
    """What a plugin may offer: one hook for each kind of class that a recipe can name."""

    @hookspec
    def pretext_tasks(self) -> dict[str, type[PretextTask]]:
        """Self-supervised methods, for ``task`` of a pretraining stage: final frozen dataclasses whose fields are the options."""
        return {}

    @hookspec
    def backbones(self) -> dict[str, type[Backbone]]:
        """Networks, for ``[backbone]``: modules whose constructor takes ``image`` first and the options as keyword-only parameters."""
        return {}

    @hookspec
    def evaluators(self) -> dict[str, type[Evaluator]]:
        """Measurements with labels, for ``evaluator`` of a stage: final frozen dataclasses whose fields are the options."""
        return {}

    @hookspec
    def datasets(self) -> dict[str, type[Dataset]]:
        """Sources of images, for ``[data]``: final frozen dataclasses whose fields are the options."""
        return {}

    @hookspec
    def decoders(self) -> dict[str, type[ImageDecoder]]:
        """Readers of image files, for ``decoder`` of an ``image_folder``: final frozen dataclasses whose fields are the options."""
        return {}

    @hookspec
    def optimizers(self) -> dict[str, type[OptimizerFactory]]:
        """Optimizers, for ``optimizer`` of a stage that trains: final frozen dataclasses with a field ``lr``."""
        return {}

    @hookspec
    def schedules(self) -> dict[str, type[Schedule]]:
        """Learning-rate schedules, for ``schedule`` of a stage that trains: final frozen dataclasses whose fields are the options."""
        return {}

    @hookspec
    def observers(self) -> dict[str, type[Observer]]:
        """Watchers of a run, which cannot change it: frozen dataclasses whose fields are the options."""
        return {}


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
    strict = os.environ.get(STRICT, "") not in ("", "0")
    found = [(point, _origin(point)) for point in importlib.metadata.entry_points(group=GROUP)]
    known = dict.fromkeys(name for _, info in found for name in (info.name, f"{info.distribution}:{info.name}"))
    notes = [
        "; ".join(filter(None, (f"{variable} names {item!r}, which no installed plugin has", did_you_mean(item, known))))
        for variable in (DISABLE, ALLOW)
        for item in _listed(variable)
        if not any(_means(item, info) for _, info in found)
    ]
    if strict and notes:
        raise PluginError("; ".join(notes))
    plugins: list[PluginInfo] = []
    offers: list[Offer] = []
    # Our own loop: pluggy's load_setuptools_entrypoints stops at the first plugin that fails and drops a second one of the same name.
    for point, info in found:
        plugin, classes = _load(point, info, strict=strict)
        plugins.append(plugin)
        offers += [Offer(kind, name, cls, plugin) for kind, named in classes.items() for name, cls in named.items()]
    # The order of entry points is that of sys.path: it must not show.
    plugins.sort(key=str)
    offers.sort(key=lambda offer: (offer.kind, offer.name, str(offer.plugin)))
    notes += [f"plugin {plugin} changed {', '.join(plugin.changed)} when it was loaded: put back" for plugin in plugins if plugin.changed]
    return Catalog(tuple(plugins), tuple(offers), tuple(notes), allow_code)


def _listed(variable: str) -> list[str]:
    return [item.strip() for item in os.environ.get(variable, "").split(",") if item.strip()]


def _means(item: str, info: PluginInfo) -> bool:
    """Whether an item of a list is the entry point's name, or ``distribution:name``, the distribution in any spelling that pip takes."""
    distribution, _, name = item.rpartition(":")
    normal = [re.sub(r"[-_.]+", "-", spelling).lower() for spelling in (distribution, info.distribution)]
    return name == info.name and (not distribution or normal[0] == normal[1])


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
    """An entry point, the distribution that declares it, whose metadata may be damaged, and whether it may be imported."""
    try:
        distribution, version = (point.dist and point.dist.name) or "", (point.dist and point.dist.version) or ""
    except Exception:
        distribution, version = "", ""
    info = PluginInfo(name=point.name, distribution=distribution or "unknown distribution", version=version)
    disabled = any(_means(item, info) for item in _listed(DISABLE))
    # An empty list of allowed plugins is a list too: of nothing but our own, which always are.
    allowed = info.is_own or ALLOW not in os.environ or any(_means(item, info) for item in _listed(ALLOW))
    return replace(info, disabled=disabled, allowed=allowed)


def _classes_of(plugin: object, name: str) -> Classes:
    """Ask one plugin for its classes.

    Each has a manager of its own, discarded afterwards: pluggy up to 1.6 leaves a plugin that failed validation half registered,
    an unknown hook would be reported again for the next plugin, and one that raises would stop the call of the others.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
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
    for kind, meaning in KINDS.items():
        hook: pluggy.HookCaller = getattr(manager.hook, kind)
        for impl in hook.get_hookimpls():  # called one by one: pluggy's own call drops a forgotten ``return``
            if impl.wrapper or impl.hookwrapper:
                raise PluginError(f"hook {kind} must not be a wrapper", fix="write @hookimpl without arguments")
            # pluggy's versions differ on parameters with defaults (before 1.7 they were not passed), so none are allowed.
            if parameters := list(inspect.signature(impl.function).parameters):
                raise PluginError(f"hook {kind} takes no arguments", found=", ".join(parameters))
            named, offered = classes.setdefault(kind, {}), checked(kind, impl.function())
            if twice := named.keys() & offered.keys():
                raise PluginError(f"{meaning.noun} {min(twice)!r} is offered twice by the same plugin")
            named |= offered
    return {kind: named for kind, named in classes.items() if named}
