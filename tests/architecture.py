"""The rules of the architecture as tables, and the reading of source code that they are held against."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "sslkit").rglob("*.py"))}
ROOMS = {name.split("/")[1].removesuffix(".py") for name in SOURCES}
PLUGINS = {path.relative_to(ROOT).as_posix(): path for room in ("plugins", "examples") for path in sorted((ROOT / room).rglob("*.py"))}

ONLY_IN = {
    "typer": {"cli.commands"},
    "rich": {"cli.commands", "cli.console"},
    "pluggy": {"catalog.discovery"},
    "timm": {"backbones.from_timm"},
}

METHODS = {"rotnet", "jigsaw", "colorization", "exemplar", "gan", "simclr", "byol", "dino", "mae", "deepcluster"}
METHOD_BLIND = re.compile(
    r"sslkit/(audit/.*|training/(?!handover).*|evaluators/.*|report/pictures/(all|recipe_views|views)|cli/preview"
    r"|run/(networks|stages|pretraining|evaluation|stage_folder|preflight|runner))\.py"
)
"""The trainer, the stages, the run, the evaluators, the audit and what draws views: they work for a method that nobody has thought of yet."""

PLAIN_VALUES = {
    "Tensor",
    "Mapping",
    "bool",
    "dict",
    "float",
    "list",
    "str",
    "tuple",
    "Objective",
    "Path",
    "Optimizer",
    "OptimizerFactory",
    "OpenedDataset",
    "PretrainStage",
    "EvaluateStage",
}
"""What method-blind code may ask ``isinstance`` for: these tell no method from another."""

UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
    "yaml",
    "runpy",
    "code",
    "codeop",
    "pty",
}
"""Modules that turn bytes into running code."""

RUNS_CODE = re.compile(
    r"eval|exec|compile|__import__|(torch|np|numpy|jit|torch\.jit|torch\.hub|torch\.package|torch\.serialization)\.(load|save)"
    r"|torch\.hub\..*|(importlib\.|util\.)?(import_module|spec_from_file_location|module_from_spec)"
    r"|os\.(system|popen|exec\w*|spawn\w*|posix_spawn\w*|startfile)|subprocess\.\w+|ctypes\.(CDLL|PyDLL|cdll\.\w+|util\.\w+)"
)
"""Calls that run what they are given, or may: also by way of an unpickler."""

MAY_RUN_CODE = {
    "sslkit/catalog/catalog.py": {"importlib.import_module"},  # package.module:Class, which the catalog has allowed
    "sslkit/backbones/from_timm.py": {"importlib.import_module"},  # libraries that are heavy to import, by constant names
    "sslkit/backbones/hub_weights.py": {"importlib.import_module"},  # huggingface_hub
    "sslkit/data/torchvision_sets.py": {"importlib.import_module", "pickle"},  # CIFAR's files, arrays alone, after their checksum
    "sslkit/training/device.py": {"ctypes.CDLL"},  # the C library of this very process
    "sslkit/run/environment.py": {"subprocess.run"},  # git
}
"""The deliberate exceptions."""

VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


class Import(NamedTuple):
    module: str
    line: int
    in_function: bool


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(name: str) -> str:
    """sslkit/training/fit.py -> training.fit; sslkit/training/__init__.py -> training."""
    return name.removeprefix("sslkit/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def room_of(module: str) -> str:
    """training.fit -> training."""
    return module.partition(".")[0]


def imports(node: ast.AST, *, in_function: bool = False) -> Iterator[Import]:
    """Every import statement below a node, also the ones under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            # `from sslkit import cli` imports the package sslkit.cli
            names = [f"{module}.{alias.name}" if module == "sslkit" else module for alias in child.names]
            yield from (Import(name, child.lineno, in_function) for name in dict.fromkeys(names))
        else:
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, in_function=inside)


def own_imports(tree: ast.Module) -> list[Import]:
    """Imports of sslkit's own modules, named without ``sslkit.``."""
    return [found._replace(module=found.module.removeprefix("sslkit.")) for found in imports(tree) if room_of(found.module) == "sslkit"]


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of all strings that stand alone as statements."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def words(text: str) -> set[str]:
    """``RotNetHead`` and ``rot_net_head`` have the words of either spelling; ``organ`` has no ``gan``."""
    parts = re.split(r"[^A-Za-z0-9]+", text)
    humps = [hump for part in parts for hump in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", part)]
    pairs = ["".join(pair) for pair in pairwise(humps)]  # RotNet, SimCLR, DeepCluster
    return {word.lower() for word in (*parts, *humps, *pairs)}


def names_and_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every identifier and every string of the code; comments and docstrings are free to name a method."""
    ignored = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in ignored:
            yield line, node.value
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield line, value


def methods_named(tree: ast.Module) -> list[str]:
    return [f"line {line}: {text}" for line, text in names_and_strings(tree) if words(text) & METHODS]


def questions_of_type(tree: ast.Module) -> list[str]:
    """Calls that ask what something is or has, other than ``isinstance`` of plain values and options read by name from ``self``."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        asked = {name.id for argument in node.args[1:] for name in ast.walk(argument) if isinstance(name, ast.Name)}
        own_option = node.func.id == "getattr" and isinstance(node.args[0], ast.Name) and node.args[0].id == "self" and len(node.args) == 2
        plain = node.func.id == "isinstance" and asked <= PLAIN_VALUES
        if node.func.id in {"isinstance", "issubclass", "hasattr", "getattr"} and not (own_option or plain):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def runs_code(tree: ast.Module) -> set[str]:
    """Calls and imports that may run code that is no source file of ours, as they are written."""
    found = {name.module for name in imports(tree) if room_of(name.module) in UNPICKLERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= {name} if RUNS_CODE.fullmatch(name) else set()
            found |= {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords if _is_reckless(word)}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names if RUNS_CODE.fullmatch(f"{node.module}.{alias.name}")}
    return found


def _is_reckless(word: ast.keyword) -> bool:
    """``shell=``, ``allow_pickle=`` or ``trust_remote_code=`` anything but False, and ``weights_only=`` anything but True."""
    value = word.value.value if isinstance(word.value, ast.Constant) else None
    return (word.arg in {"shell", "allow_pickle", "trust_remote_code"} and value is not False) or (
        word.arg == "weights_only" and value is not True
    )


def foreign_imports(tree: ast.Module, package: str) -> list[str]:
    """What a plugin imports of sslkit or of other plugins beyond the public API."""
    found = []
    for name in imports(tree):
        top, _, rest = name.module.partition(".")
        public = rest in {"", "testing", "views"} or ("." not in rest and rest not in ROOMS)
        if name.module.startswith(".") or (top == "sslkit" and not public) or (top.startswith("sslkit_") and top != package):
            found.append(f"line {name.line}: {name.module}")
    return found
