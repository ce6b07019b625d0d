"""The code that a recipe brings along: the classes that it names as ``package.module:Class``, and what plugins were loaded for it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkit.catalog.catalog import CODE_FIX, Catalog, PluginInfo
from sslkit.catalog.shared_state import changes_of
from sslkit.contract.class_address import file_of
from sslkit.contract.errors import RecipeError
from sslkit.recipe.toml import CLASS_KEYS

_ADDRESS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_CLASS = re.compile(rf"{CLASS_KEYS}|(.+\.)?decoder|observers\[\d+\]|.+\.name")
"""The keys at which a string is a class; a table's ``name`` is one everywhere."""


@dataclass(frozen=True)
class RecipeCode:
    """Code that is not sslkit's own. ``notes`` say what is odd about it, a sentence each."""

    plugins: tuple[PluginInfo, ...] = ()  # all that are installed, loaded or not
    imported: Mapping[str, str] = field(default_factory=dict)  # classes outside the catalog, and the file of each
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a user should know before it runs: nothing where there is only sslkit's own code."""
        loaded = [str(plugin) for plugin in self.plugins if plugin.state == "loaded" and not plugin.is_own]
        broken = [f"{plugin}: {plugin.error}" for plugin in self.plugins if plugin.state == "broken"]
        imported = [f"{spec} from {source or 'no file'}" for spec, source in self.imported.items()]
        parts = {"plugins": loaded, "broken plugins": broken, "imported": imported}
        return [f"{what}: {', '.join(entries)}" for what, entries in parts.items() if entries]

    def as_json(self) -> dict[str, Any]:
        """What belongs beside a result: every plugin, and every class from elsewhere."""
        keys = ("name", "distribution", "version", "state", "error")
        plugins = [{key: value for key in keys if (value := getattr(plugin, key)) is not None} for plugin in self.plugins]
        return {"plugins": plugins, "imported": dict(self.imported), "notes": list(self.notes)}


def is_in_run(path: Path) -> bool:
    """Whether a recipe was written by a run, which somebody else may have sent."""
    folder = path.resolve().parent
    folders = (folder, folder.parent) if folder.name == "variants" else (folder,)
    stages = ("*/artifact.json", "*/*/artifact.json") if (folders[-1] / "variants").is_dir() else ("*/artifact.json",)
    return any(any(folder.glob(trace)) for folder in folders for trace in ("results.json", *stages))


def refuse_code(tables: Iterable[Mapping[str, Any]], catalog: Catalog) -> None:
    """Refuse every class that a recipe, or a variant of it, may not import, all in one message; building it would stop at the first."""
    named = dict.fromkeys(found for table in tables for found in named_classes(table))
    refused = [f"{path}: {refusal.what}" for path, spec in named if (refusal := catalog.refusal(spec))]
    if refused:
        raise RecipeError("; ".join(refused), fix=CODE_FIX)


def code_of(tables: Iterable[Mapping[str, Any]], catalog: Catalog) -> RecipeCode:
    """What was loaded and imported for recipes, or variants, that have been built."""
    named = dict.fromkeys(spec for table in tables for _, spec in named_classes(table) if catalog.is_outside(spec))
    modules = dict.fromkeys(spec.partition(":")[0] for spec in named)
    changes = tuple(f"importing {module} changed {', '.join(found)}: put back" for module in modules if (found := changes_of(module)))
    return RecipeCode(catalog.plugins, {spec: file_of(spec.partition(":")[0]) for spec in named}, (*catalog.notes, *changes))


def named_classes(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The ``package.module:Class`` in a recipe, each with its dotted path."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from named_classes(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from named_classes(entry, f"{path}[{i}]")
    elif isinstance(value, str) and _CLASS.fullmatch(path) and _ADDRESS.fullmatch(value):
        yield path, value
