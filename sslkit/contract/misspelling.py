"""Names that nearly are those of a contract: a method that is misspelt would never be called, and nobody would say so."""

import difflib
import inspect
from abc import ABC

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError

_NEAR = 0.83
"""How alike two names are, as difflib counts, if one is the other misspelt: ``on_after_stp``, ``lables``, ``needs_label``."""


class Contract(ABC):  # noqa: B024 - its subclasses have abstract methods
    """What plugins derive from: a subclass is refused whose public name is nearly one that it could override and does not.

    Names that begin with ``on_`` are its own where it has such. Options, which are annotated fields, may be called anything.
    """

    def __init_subclass__(cls, **options: object) -> None:
        """Look at a new subclass.

        Raises:
            PluginError: names what was meant.
        """
        super().__init_subclass__(**options)
        for contract in cls.__mro__[1:]:
            if Contract in contract.__bases__:
                _refuse_misspelt(cls, contract)


def refuse_misspelt_attributes(instance: object, contract: type) -> None:
    """The same for values that a constructor sets: ``self.clases = ...`` would leave it without any.

    Raises:
        PluginError: names what was meant.
    """
    values = [name for name in _overridable(contract) if not callable(getattr(contract, name))]
    left = [name for name in values if getattr(type(instance), name) is getattr(contract, name) and name not in vars(instance)]
    for name in vars(instance):
        if not name.startswith("_") and not hasattr(type(instance), name):
            _refuse_near(name, left, _NEAR, type(instance), contract)


def _refuse_misspelt(cls: type, contract: type) -> None:
    written = [base for base in cls.__mro__ if base not in contract.__mro__]
    known = _overridable(contract)
    left = [name for name in known if not any(name in vars(base) for base in written)]
    for base in written:
        for name in vars(base).keys() - inspect.get_annotations(base).keys():
            if not name.startswith("_") and not hasattr(contract, name):
                event = name.startswith("on_") and any(hook.startswith("on_") for hook in known)
                _refuse_near(name, known if event else left, 0.0 if event else _NEAR, cls, contract)


def _refuse_near(name: str, names: list[str], cutoff: float, cls: type, contract: type) -> None:
    for meant in difflib.get_close_matches(name, names, n=1, cutoff=cutoff):
        what = f"{provenance_of(cls)}: {contract.__name__} has no {name!r}"
        raise PluginError(what, fix=f"did you mean {meant!r}? A name of your own that is like it begins with _")


def _overridable(contract: type) -> list[str]:
    """Its public names with a value, but for those that are final; a property does not say whether it is."""
    values = {name: value for name, value in vars(contract).items() if not name.startswith("_") and not isinstance(value, property)}
    return [name for name, value in values.items() if not getattr(value, "__final__", False)]
