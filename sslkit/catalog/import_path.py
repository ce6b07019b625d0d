"""The import of a class by its address."""

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from sslkit.catalog.shared_state import loading
from sslkit.contract.class_address import one_line, package_of
from sslkit.contract.errors import PluginError, did_you_mean


def import_class(spec: str) -> Any:
    """Import what stands at an address, whatever it is.

    What the module changes of the state that all code shares is put back. Where it lies in the current folder, that is put on ``sys.path``, as
    ``python -m`` does, and stays there for what the module imports later.

    Raises:
        PluginError: the module cannot be imported, or holds no such thing.
    """
    module_name, _, qualname = spec.partition(":")
    _reach_current_folder(package_of(spec))
    try:
        with loading(module_name):
            found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}.")
        why = "it is neither installed nor in the current folder" if missing else one_line(error)
        raise PluginError(f"{spec!r} cannot be imported", fix=why) from error
    first, *nested = qualname.split(".")
    found = _attribute(found, first, spec)
    for part in nested:
        if isinstance(found, type):  # a class may hold another; the attributes of anything else are no business of a recipe
            found = _attribute(found, part, spec)
    return found


def _attribute(owner: Any, name: str, spec: str) -> Any:
    if not hasattr(owner, name):
        module_name, _, qualname = spec.partition(":")
        raise PluginError(f"{spec!r} does not exist: {module_name} has no {qualname!r}", fix=did_you_mean(name, dir(owner)))
    return getattr(owner, name)


def _reach_current_folder(package: str) -> None:
    folder = str(Path.cwd())
    if package.isidentifier() and package not in sys.modules and folder not in sys.path and PathFinder.find_spec(package, [folder]):
        sys.path.insert(0, folder)
