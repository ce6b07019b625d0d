"""Hashes of the source code that decides an outcome: that of plugins and of classes of the user's own.

For sslkit's own classes the version counts, for Python's and torch's nothing.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import io
import site
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

from torch import nn

_KNOWN_OTHERWISE = sys.stdlib_module_names | {"sslkit", "torch"}
"""Top-level packages that are not hashed. sslkit's own plugins are packages beside it, and are hashed."""

_LARGE = 2**20
"""Bytes of a package's sources above which comments count too: to look for them takes a second per mebibyte."""

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
"""What a script defines, beside constants."""


class SourceCode:
    """Reads and hashes sources; each file once, so that what is edited during a run does not count as what was run.

    What counts is a package's whole Python code; of a single module, its file and those beside it that it imports; of a script, only what
    it defines, as the rest is the experiment. Comments, docstrings and blank lines do not count.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, str]] = {}

    def of(self, *values: object) -> dict[str, str]:
        """The code behind objects and classes: a hash by the name of the package or the file, ``sslkit_rotnet`` or ``my_task.py``.

        Options of options count, and the modules of a network, and what classes inherit from.
        """
        code: dict[str, str] = {}
        for name, chosen in _modules(values):
            # A library that something is built of is no method: torchvision, say, under a network that a user wraps.
            module = sys.modules.get(name)
            if module is not None and name.partition(".")[0] not in _KNOWN_OTHERWISE and (chosen or not _is_installed(name)):
                package = _package_of(name)
                unit = package or name
                if unit not in self._found:
                    self._found[unit] = self._read(module, package)
                code |= self._found[unit]
        return dict(sorted(code.items()))

    def _read(self, module: ModuleType, package: str) -> dict[str, str]:
        if package:
            folder = Path(sys.modules[package].__file__ or "").parent
            version = str(getattr(sys.modules[package], "__version__", "unknown"))  # for one without Python code of its own
            return {package: _hash_of(_sources(folder), folder) or version}
        file = Path(getattr(module, "__file__", None) or "")
        if not file.is_file():  # typed into an interpreter: there is nothing to read
            return {}
        if module.__name__ == "__main__":
            own = {file.name: hashlib.sha256(_definitions(_text(file)).encode(errors="surrogateescape")).hexdigest()}
            return own | {name: hashed for name, hashed in _hashes_beside(file, file.parent).items() if name != file.name}
        return _hashes_beside(file, file.parents[module.__name__.count(".")])


def is_edited_in_place() -> bool:
    """Whether sslkit runs from a checkout, whose code may change while its version stays."""
    return (Path(__file__).parents[2] / "pyproject.toml").is_file()


def _modules(values: Iterable[object]) -> Iterator[tuple[str, bool]]:
    """The modules of all classes that values are made of, and whether each was chosen rather than inherited from, or part of a network."""
    for value in values:
        if isinstance(value, type):
            yield value.__module__, True
            yield from ((base.__module__, False) for base in value.__mro__[1:])
        elif isinstance(value, FunctionType):
            yield value.__module__, True
        elif isinstance(value, Mapping):
            yield from _modules(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _modules(value)
        elif value is not None:
            yield from _modules([type(value)])
            if isinstance(value, nn.Module):
                yield from ((name, False) for module in value.modules() for name, _ in _modules([type(module)]))
            elif dataclasses.is_dataclass(value):
                yield from _modules(getattr(value, field.name) for field in dataclasses.fields(value))


def _package_of(name: str) -> str:
    """The outermost package of a module that is one: a namespace is shared by packages that know nothing of each other."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        package = ".".join(parts[:length])
        file = getattr(sys.modules.get(package), "__file__", None)
        if file and Path(file).name == "__init__.py":
            return package
    return ""


def _sources(folder: Path) -> list[Path]:
    """The Python files of a package, without what editors hide beside them: locks (links to nothing) and copies."""
    files = (file for file in folder.rglob("*.py") if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in files if file.is_file())


def _is_installed(name: str) -> bool:
    """Whether a module is where pip puts what is not to be edited."""
    top = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None)
    return file is not None and _holds_installed(Path(file).parent if Path(file).name != "__init__.py" else Path(file).parents[1])


@cache
def _holds_installed(folder: Path) -> bool:
    usual = {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return str(folder) in usual or next(folder.glob("*.dist-info"), None) is not None


def _hashes_beside(file: Path, root: Path) -> dict[str, str]:
    """A single module, and what it imports below the same root, directly or not."""
    hashes: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if name in hashes:
            continue
        if path.is_dir():
            hashes[name] = _hash_of(_sources(path), path)
            continue
        hashes[name] = _hash_of([path], root)
        if not _holds_installed(root):
            waiting += _imported(path, root)
    return hashes


def _imported(file: Path, root: Path) -> list[Path]:
    """The modules and packages below a root that a file imports, wherever in it."""
    try:
        tree = ast.parse(_text(file))
    except (SyntaxError, ValueError):  # ValueError: bytes that are no text
        return []
    names: list[tuple[Path, list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(root, alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if node.level else root
            stem = node.module.split(".") if node.module else []
            names += [(start, [*stem, alias.name]) for alias in node.names] + [(start, stem)]
    found = [_beside(start, parts) for start, parts in names if parts and (start != root or parts[0] != "sslkit")]
    return [path for path in found if path is not None and path.is_relative_to(root)]


def _beside(start: Path, parts: list[str]) -> Path | None:
    """The outermost package, or the module, that a dotted name stands for below a folder."""
    for length in range(1, len(parts) + 1):
        path = start.joinpath(*parts[:length])
        if (path / "__init__.py").is_file():
            return path
        if path.with_name(f"{path.name}.py").is_file():
            return path.with_name(f"{path.name}.py")
    return None


def _hash_of(files: list[Path], root: Path) -> str:
    """Sha256 of the files' code and their names; empty without any."""
    if not files:
        return ""
    large = sum(file.stat().st_size for file in files) > _LARGE
    digest = hashlib.sha256()
    for file in files:
        text = _text(file)
        code = text if large else _without_comments(text)
        digest.update(f"{file.relative_to(root).as_posix()}\0{code}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _text(file: Path) -> str:
    """As Python reads it, which heeds a byte order mark and a line that names the encoding."""
    source = file.read_bytes()
    try:
        return importlib.util.decode_source(source)
    except (SyntaxError, UnicodeDecodeError):  # Python would not read it either
        return source.decode(errors="surrogateescape").replace("\r\n", "\n")


def _without_comments(text: str) -> str:
    """The text of the code alone. Not its tree, because how Python writes a tree differs between versions."""
    try:
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL]
    except (SyntaxError, ValueError, tokenize.TokenError):  # no Python of this version, or a template of some
        return text
    if any(token.type == tokenize.ERRORTOKEN for token in tokens):  # the same, before Python 3.12
        return text
    comments, code = ([token for token in tokens if (token.type == tokenize.COMMENT) is wanted] for wanted in (True, False))
    starts = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    docstrings = [  # strings that are a whole statement, wherever they stand
        token
        for before, token, after in zip([None, *code], code, code[1:], strict=False)
        if token.type == tokenize.STRING and (before is None or before.type in starts) and after.type == tokenize.NEWLINE
    ]
    lines = text.split("\n")
    for token in (*comments, *docstrings):
        (first, start), (last, end) = token.start, token.end
        kept = lines[first - 1][:start], lines[last - 1][end:]
        lines[first - 1 : last] = [""] * (last - first + 1)
        lines[first - 1] = kept[0]
        lines[last - 1] += kept[1]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _definitions(text: str) -> str:
    """What a script defines, and the constants beside it."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):  # it was edited since it was started
        return text
    lines = text.split("\n")
    nodes = [node for node in body if isinstance(node, _DEFINITIONS) or _is_constant(node)]
    starts = [min(part.lineno for part in (node, *getattr(node, "decorator_list", ()))) for node in nodes]
    return _without_comments("\n".join("\n".join(lines[start - 1 : node.end_lineno]) for start, node in zip(starts, nodes, strict=True)))


def _is_constant(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True
