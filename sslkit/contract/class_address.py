"""``package.module:Class``: where a class outside the catalog would come from, and whose a class is."""

import sys
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path

from sslkit.contract.errors import SslkitError


def address_of(cls: type) -> str:
    """How a recipe writes a class that no plugin offers."""
    return f"{cls.__module__}:{cls.__qualname__}"


def package_of(spec: str) -> str:
    """The top-level package or module of an address."""
    return spec.partition(":")[0].partition(".")[0]


def source_of(spec: str) -> str:
    """The file that an import of this address would begin with; empty where that is unknown without importing something.

    Only the top-level package is looked for, because to find ``package.module`` the import system imports ``package``.
    """
    top = package_of(spec)
    if loaded := sys.modules.get(top):
        return file_of(top) or next(iter(getattr(loaded, "__path__", ())), "")
    found = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) if top.isidentifier() else None
    if found is None:
        return ""
    return found.origin or next(iter(found.submodule_search_locations or ()), "")


def file_of(module: str) -> str:
    """The file that a module was imported from; empty for one that has none or is not imported."""
    return getattr(sys.modules.get(module), "__file__", None) or ""


def provenance_of(cls: type) -> str:
    """A class as a person looks for it: with its distribution and version, ``Flips of sslkit-flips 1.2``, or else its file."""
    where = _distributions_of(package_of(cls.__module__)) or Path(file_of(cls.__module__) or cls.__module__).name
    return f"{cls.__qualname__} of {where}"


@cache
def _distributions_of(package: str) -> str:
    """Who installed a top-level package, with versions. One that is edited in place often does not list it, but has an entry point."""
    pointing = [entry.dist.name for entry in entry_points(group="sslkit") if entry.dist and package_of(entry.value) == package]
    names = dict.fromkeys(name for name in (*pointing, *packages_distributions().get(package, ())) if name)
    known = []
    for name in names:
        with suppress(PackageNotFoundError):
            known.append(f"{name} {version(name)}")
    return " or ".join(known)


def one_line(error: BaseException) -> str:
    """What went wrong, in one line that names the kind of error."""
    text = str(error) if isinstance(error, SslkitError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")
