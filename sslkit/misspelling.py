"""Methods and attributes whose names nearly are those of a contract: what is misspelt would never be called, and nobody would say so."""

import difflib
import inspect
from typing import ClassVar, get_origin

from sslkit.class_address import provenance_of
from sslkit.errors import PluginError

_NEAR = 0.85
"""How alike two names are, as difflib counts, if one is the other misspelt: ``on_after_stp``, ``clases``, ``needs_label``."""


def refuse_misspelt(cls: type, contract: type) -> None:
    """Refuse a class with a public name that is nearly one of its contract's which it does not define.

    Names that begin with ``on_`` are the contract's in any case. Options, which are annotated fields, may be called anything.

    Args:
        cls: a class that derives from ``contract``.
        contract: defines what may be overridden.

    Raises:
        PluginError: names what was meant.
    """
    known = {name for name in (*vars(contract), *inspect.get_annotations(contract)) if not name.startswith("_")}
    written = [base for base in cls.__mro__ if base not in contract.__mro__]
    open_names = known - {name for base in written for name in vars(base)}
    for base in written:
        options = _options(base)
        for name in vars(base):
            if name.startswith("_") or name in options or hasattr(contract, name) or name in known:
                continue
            near = difflib.get_close_matches(name, known if name.startswith("on_") else open_names, n=1, cutoff=_NEAR)
            if near or (name.startswith("on_") and any(hook.startswith("on_") for hook in known)):
                fix = f"did you mean {near[0]!r}? A method of your own begins with _" if near else "a method of your own begins with _"
                raise PluginError(f"{provenance_of(cls)}: {contract.__name__} has no {name!r}", fix=fix)


def _options(cls: type) -> set[str]:
    """Annotated names that are no class variables."""
    return {
        name
        for name, kind in inspect.get_annotations(cls).items()
        if get_origin(kind) is not ClassVar and kind is not ClassVar and "ClassVar" not in str(kind)
    }
