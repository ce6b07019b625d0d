"""The hooks of a plugin: one for each kind of class that a recipe can name.

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

import pluggy

from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.contract.training import OptimizerFactory, Schedule

hookspec = pluggy.HookspecMarker("sslkit")
hookimpl = pluggy.HookimplMarker("sslkit")
"""Marks a function of a plugin as the implementation of the hook that it is named for."""


@hookspec
def pretext_tasks() -> dict[str, type[PretextTask]]:
    """Self-supervised methods, for ``task`` of a pretraining stage: final frozen dataclasses whose fields are the options."""
    return {}


@hookspec
def backbones() -> dict[str, type[Backbone]]:
    """Networks, for ``[backbone]``: modules whose constructor takes ``image`` first and the options as keyword-only parameters."""
    return {}


@hookspec
def evaluators() -> dict[str, type[Evaluator]]:
    """Measurements with labels, for ``evaluator`` of a stage: final frozen dataclasses whose fields are the options."""
    return {}


@hookspec
def datasets() -> dict[str, type[Dataset]]:
    """Sources of images, for ``[data]``: final frozen dataclasses whose fields are the options."""
    return {}


@hookspec
def optimizers() -> dict[str, type[OptimizerFactory]]:
    """Optimisers, for ``optimizer`` of a stage that trains: final frozen dataclasses with a field ``lr``."""
    return {}


@hookspec
def schedules() -> dict[str, type[Schedule]]:
    """Learning-rate schedules, for ``schedule`` of a stage that trains: final frozen dataclasses whose fields are the options."""
    return {}


@hookspec
def observers() -> dict[str, type[Observer]]:
    """Watchers of a run, which cannot change it: frozen dataclasses whose fields are the options."""
    return {}
